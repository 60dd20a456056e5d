"""The witness: watches every selector of a process from outside, and says whether it kept its promises.

Nothing here reads what the package knows about itself. Gradients are measured anew from ``.grad``, weights and
optimizer states are compared bit for bit with copies, and flags with those that the model had before the selector came.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from .watched_selector import Report


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
