"""One selector as the witness sees it: its scores, what its optimizers step, and the flags of its model."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .tensors import copies_of, holds_the_same, norm_of

#: How far a score may be from the norm measured here, relatively.
TOLERANCE = 1e-5
#: A run that shows less than this shows nothing.
LEAST_STEPS = 3


class FaultLog(Protocol):
    """Takes note of faults.

    Attributes:
        swaps: the optimizer swaps weights for evaluation and back.
    """

    swaps: bool

    def fault(self, what: str, example: str = "") -> None: ...


class Report:
    """What was seen of one selector.

    Args:
        witness: takes the faults.
        selector, model: what is watched.
        flags: each parameter's ``requires_grad`` before the selector was built.
    """

    def __init__(self, witness: FaultLog, selector: Any, model: nn.Module, flags: dict[str, bool]) -> None:
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
            self._norms = [norm_of([p.grad for p in layer.values()]) for layer in self._layers()]

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
            same = name not in self._kept or holds_the_same(self._kept[name], value, exact)
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
        self._kept = {name: copies_of(value) for name, _, value in self._everything()}

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


def _without_wrappers(name: str) -> str:
    """A name as the model itself has it."""
    return name.replace("_orig_mod.", "").removeprefix("module.")
