"""The witness: watches every selector of a process from outside, and says whether it kept its promises.

Nothing here reads what the package knows about itself. Gradients are measured anew from ``.grad``, weights and
optimizer states are compared bit for bit with copies, and flags with those that the model had before the selector came.
"""

from __future__ import annotations

import functools
import logging
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

#: How far a score may be from the norm measured here, relatively.
TOLERANCE = 1e-5
#: A run that shows less than this shows nothing.
LEAST_STEPS = 3


class Witness:
    """Watches the selectors of this process from :meth:`install` on.

    Args:
        swaps: the optimizer swaps weights for evaluation and back, so that they are compared between two steps up to
            rounding.

    Attributes:
        faults: what went wrong, in the order in which it was seen, each kind once.
        warnings: what the package itself said, with the number of steps that were closed by then.
        reports: one for each selector that was built.
    """

    def __init__(self, swaps: bool = False) -> None:
        self.swaps = swaps
        self.faults: dict[str, int] = {}
        self.warnings: list[tuple[int, str]] = []
        self.reports: list[Report] = []
        self._kinds: set[str] = set()
        self._undo: list[Callable[[], None]] = []

    def install(self) -> None:
        from layerselect import FastSelector

        reports: weakref.WeakKeyDictionary[FastSelector, Report] = weakref.WeakKeyDictionary()

        def built(
            original: Callable[..., None], selector: FastSelector, model: nn.Module, *args: Any, **how: Any
        ) -> None:
            flags = {name: p.requires_grad for name, p in model.named_parameters()}
            original(selector, model, *args, **how)
            report = reports[selector] = Report(self, selector, model, flags)
            self.reports.append(report)

        def stepped(original: Callable[..., None], selector: FastSelector, *args: Any, **how: Any) -> None:
            reports[selector].before_selection()
            factor = _factor(args[0] if args else how.get("grad_scale"))
            original(selector, *args, **how)
            reports[selector].after_selection(factor)

        def closed(original: Callable[..., None], selector: FastSelector, *args: Any) -> None:
            if selector in reports and not self.swaps:  # evaluation comes last
                reports[selector].settle("between two steps")
            original(selector, *args)
            if selector in reports:
                reports[selector].after_close()

        for name, around in (("__init__", built), ("step", stepped), ("close", closed)):
            self._wrap(FastSelector, name, around)
        for place in (torch.nn.utils, torch.nn.utils.clip_grad):
            self._wrap(place, "clip_grad_norm_", self._before_clipping)
            self._wrap(place, "clip_grad_value_", self._before_clipping)
        self._wrap(torch.autograd, "backward", self._before_backward)
        hook = register_optimizer_step_post_hook(self._after_optimizer)
        handler = _Ear(self)
        logging.getLogger("layerselect").addHandler(handler)
        self._undo += [hook.remove, lambda: logging.getLogger("layerselect").removeHandler(handler)]

    def remove(self) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def finish(self) -> None:
        """Closes what the program left open and draws the conclusions."""
        for report in self.reports:
            report.finish()
        if not self.reports:
            self.fault("no selector was built")

    def fault(self, what: str, example: str = "") -> None:
        """Takes note of a fault, with its first example."""
        if what not in self._kinds:
            self._kinds.add(what)
            self.faults[f"{what}: {example}" if example else what] = self.steps

    @property
    def steps(self) -> int:
        return sum(report.steps for report in self.reports)

    def warned_of(self) -> str | None:
        """The warning that the package gave no later than two steps after the first fault, if it gave one."""
        first = min(self.faults.values(), default=0)
        return next((text for step, text in self.warnings if step <= first + 2), None)

    def _wrap(self, place: Any, name: str, around: Callable[..., Any]) -> None:
        original = getattr(place, name)

        @functools.wraps(original)
        def wrapper(*args: Any, **how: Any) -> Any:
            return around(original, *args, **how)

        setattr(place, name, wrapper)
        self._undo.append(lambda: setattr(place, name, original))

    def _before_clipping(self, original: Callable[..., Any], *args: Any, **how: Any) -> Any:
        for report in self.reports:
            report.measure()
        return original(*args, **how)

    def _before_backward(self, original: Callable[..., Any], tensors: Any, *args: Any, **how: Any) -> Any:
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        if any(root.numel() == 1 and not bool(root.detach().isfinite().all()) for root in roots):
            self.fault("a loss is not finite")
        for report in self.reports:
            report.forget_norms()
        return original(tensors, *args, **how)

    def _after_optimizer(self, optimizer: torch.optim.Optimizer, args: Any, how: Any) -> None:
        for report in self.reports:
            report.after_optimizer(optimizer)


class Report:
    """What was seen of one selector.

    Args:
        witness: takes the faults.
        selector, model: what is watched.
        flags: each parameter's ``requires_grad`` before the selector was built.
    """

    def __init__(self, witness: Witness, selector: Any, model: nn.Module, flags: dict[str, bool]) -> None:
        self._witness = witness
        self._selector = selector
        self._model = model
        self._flags = flags
        self._norms: list[float | None] | None = None  # as the last backward pass left the gradients
        self._kept: dict[str, Any] = {}
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._stepped: Counter[int] = Counter()
        self._closed = False
        self.steps = 0
        self.left_out = 0
        self.compared = 0
        self.farthest = 0.0
        self.optimizer_steps = 0
        self.moved: set[int] = set()
        self.masks: list[str] = []

    def facts(self) -> dict[str, Any]:
        return {
            "mode": self._selector.mode,
            "capture": self._selector.capture,
            "layers": self._selector.num_layers,
            "steps": self.steps,
            "optimizer_steps": self.optimizer_steps,
            "left_out": self.left_out,
            "scores_compared": self.compared,
            "farthest_score": self.farthest,
            "masks": self.masks,
        }

    def measure(self) -> None:
        """Takes the norm of each layer's gradient, as it is now."""
        if not self._closed:
            self._norms = [_norm([p.grad for p in layer.values()]) for layer in self._layers()]

    def forget_norms(self) -> None:
        self._norms = None

    def before_selection(self) -> None:
        self.settle("between two steps")
        if self.steps and max(self._stepped.values(), default=0) != 1:
            times = max(self._stepped.values(), default=0)
            self._witness.fault("optimizer steps do not follow the selector's", f"{times} between two of its steps")
        self._stepped.clear()
        if self._norms is None:
            self.measure()

    def after_selection(self, factor: float) -> None:
        scores, mask = self._selector.scores.tolist(), self._selector.mask.tolist()
        if self._selector.score == "l2":
            self._compare(scores, factor)
        self._norms = None
        self.steps += 1
        self.left_out += mask.count(False)
        self.masks.append("".join("1" if on else "0" for on in mask))
        self._remember()

    def after_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        ours = {id(p) for layer in self._layers() for p in layer.values()}
        if self._closed or not any(id(p) in ours for group in optimizer.param_groups for p in group["params"]):
            return
        self._stepped[id(optimizer)] += 1
        if self._stepped[id(optimizer)] == max(self._stepped.values()):
            self.optimizer_steps += len(self._stepped) == 1
        self._optimizers.add(optimizer)
        self.settle("in the optimizer's step")

    def settle(self, when: str) -> None:
        """Compares weights and states with those that they had when the selection was made."""
        if self._selector.mode == "observe" or not self._kept:
            return
        mask = self.masks[-1]
        for name, index, value in self._everything():
            exact = not (self._witness.swaps and when == "between two steps")
            same = name not in self._kept or _same(self._kept[name], value, exact)
            if mask[index] == "0" and not same:
                what = "state" if name.startswith("state ") else "weights"
                self._witness.fault(f"the {what} of an unselected layer changed {when}", name.split(" ", 1)[1])
            elif not same and not name.startswith("state "):
                self.moved.add(index)

    def after_close(self) -> None:
        self._closed = True
        now = {name: p.requires_grad for name, p in self._model.named_parameters()}
        wrong = [name for name, flag in self._flags.items() if now.get(name, flag) != flag]
        if wrong:
            self._witness.fault(
                "after close(), requires_grad is not as found", f"{len(wrong)} parameters, {wrong[0]} first"
            )

    def finish(self) -> None:
        if not self._closed:
            self._selector.close()
        fault = self._witness.fault
        if self.steps < LEAST_STEPS:
            fault(f"the run shows nothing: {self.steps} steps of the selector")
        elif not self.left_out:
            fault("the run shows nothing: no layer was ever left out")
        elif not any(self._layers()):
            fault("the run shows nothing: the layers are not found under their names")
        elif not self.moved and self._selector.mode != "observe":
            fault("no layer was trained")
        elif not self.compared:
            fault("the run shows nothing: no score could be compared")

    def _compare(self, scores: list[float], factor: float) -> None:
        for index, (norm, score) in enumerate(zip(self._norms or (), scores, strict=False)):
            if norm is None or not math.isfinite(norm):
                continue
            norm = norm / factor
            self.compared += 1
            off = abs(score - norm) / norm if norm else abs(score)
            self.farthest = max(self.farthest, off)
            if not off <= TOLERANCE:
                name = self._selector.layer_names[index]
                self._witness.fault(
                    "a score is not the norm of its layer's gradient", f"{score:.6g} instead of {norm:.6g} for {name}"
                )

    def _remember(self) -> None:
        self._kept = {name: _copy(value) for name, _, value in self._everything()}

    def _layers(self) -> list[dict[str, nn.Parameter]]:
        """For each layer, the parameters that were to be trained when the selector was built."""
        layers: list[dict[str, nn.Parameter]] = [{} for _ in self._selector.layer_names]
        starts = [f"{_without_wrappers(name)}." for name in self._selector.layer_names]
        places: Counter[int] = Counter()  # a parameter that stands in two layers belongs to neither
        for name, parameter in self._model.named_parameters(remove_duplicate=False):
            for layer, start in zip(layers, starts, strict=True):
                if self._flags.get(name, id(parameter) in places) and _without_wrappers(name).startswith(start):
                    layer[name] = parameter
                    places[id(parameter)] += 1
        return [{name: p for name, p in layer.items() if places[id(p)] == 1} for layer in layers]

    def _everything(self) -> Iterator[tuple[str, int, Tensor]]:
        """(name, layer, tensor) for each weight of a layer and each tensor of its state."""
        for index, layer in enumerate(self._layers()):
            for name, parameter in layer.items():
                yield f"weight {name}", index, parameter
                for number, optimizer in enumerate(self._optimizers):
                    state = optimizer.state.get(parameter, {}) if isinstance(optimizer.state, dict) else {}
                    for key, value in state.items() if isinstance(state, dict) else ():
                        if isinstance(value, Tensor):
                            yield f"state {number} {name} {key}", index, value


class _Ear(logging.Handler):
    def __init__(self, witness: Witness) -> None:
        super().__init__(logging.WARNING)
        self._witness = witness

    def emit(self, record: logging.LogRecord) -> None:
        self._witness.warnings.append((self._witness.steps, record.getMessage()))


def _factor(grad_scale: Any) -> float:
    """By how much the gradients are too large, as they are now."""
    if grad_scale is None:
        return 1.0
    if not hasattr(grad_scale, "get_scale"):
        return float(grad_scale)
    unscaled = any(state["stage"].name != "READY" for state in grad_scale._per_optimizer_states.values())
    return 1.0 if unscaled else float(grad_scale.get_scale())


def _without_wrappers(name: str) -> str:
    """A name as the model itself has it."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


def _norm(gradients: list[Tensor | None]) -> float | None:
    """The norm over some gradients, whole ones where they are spread over processes; None if there are none."""
    there = [_whole(g.detach()) for g in gradients if g is not None]
    if not there:
        return None
    return math.sqrt(sum(float(g.double().square().sum()) for g in there))


def _whole(tensor: Tensor) -> Tensor:
    tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def _parts(tensor: Tensor) -> list[Tensor]:
    """The plain tensors of which a tensor is made: itself, its shard here, or those of a quantized one."""
    tensor = tensor.detach()
    if hasattr(tensor, "to_local"):
        return _parts(tensor.to_local())
    if type(tensor) not in (Tensor, nn.Parameter) and hasattr(tensor, "__tensor_flatten__"):
        return [part for name in tensor.__tensor_flatten__()[0] for part in _parts(getattr(tensor, name))]
    return [tensor]


def _copy(tensor: Tensor) -> list[Tensor]:
    return [part.clone() for part in _parts(tensor)]


def _same(before: list[Tensor], now: Tensor, exact: bool) -> bool:
    parts = _parts(now)
    if not exact:
        return all(map(torch.allclose, before, parts))
    return len(before) == len(parts) and all(
        a.shape == b.shape and bool(torch.equal(_comparable(a), _comparable(b)))
        for a, b in zip(before, parts, strict=True)
    )


def _comparable(tensor: Tensor) -> Tensor:
    """The same bits, so that NaN equals NaN; 8-bit floats cannot be compared as such."""
    return tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor.nan_to_num()
