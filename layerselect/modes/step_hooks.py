"""What is done around the steps of an optimizer: one pair of hooks for all who take part."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from ..layers.model_hooks import ModelHook

Closure = Callable[[], Any]
#: Told that a step begins, and with which closure; returns the closure that the step is to be given instead.
Before = Callable[[Closure | None], Closure | None]
#: Told that the step is over.
After = Callable[[], None]

_HOOK = ModelHook.__call__.__code__


class StepHooks:
    """Calls others before and after the outermost steps of an optimizer: a step may run inside another one, as
    ``super().step()`` makes it, and each runs torch's hooks.

    Who is added later is told later that a step begins, and sooner that it is over. Whether the outer step is still
    running, or was left by an exception long ago, the stack tells.

    With many optimizers of one tensor each, what is done here is a good part of a step: hence one pair of hooks for
    all, and no lists but those that are there.

    Args:
        optimizer: whose steps. Its hooks are gone when nobody is left.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._before: list[Before] = []
        self._after: list[After] = []
        self._running: FrameType | None = None
        self._handles: list[Any] = []

    def add(self, before: Before, after: After) -> None:
        """From now on these are called."""
        self._before.append(before)
        self._after.insert(0, after)
        if not self._handles:
            self._handles = [
                self.optimizer.register_step_pre_hook(ModelHook(self._enter)),
                self.optimizer.register_step_post_hook(ModelHook(self._leave)),
            ]

    def remove(self, before: Before, after: After) -> None:
        """They are called no more; a step that is running has no end for anybody."""
        self._before.remove(before)
        self._after.remove(after)
        self._running = None
        if not self._before:
            for handle in self._handles:
                handle.remove()
            self._handles = []

    def runs(self) -> bool:
        """Whether the caller is inside a step."""
        return self._running is not None and _is_inside(inspect.currentframe(), self._running)

    def _enter(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        caller = _caller(inspect.currentframe())
        if self._running is not None and _is_inside(caller, self._running):
            return None
        self._running = caller
        # torch hands the hook all positional arguments of step(), the optimizer itself first.
        given: Closure | None = args[1] if len(args) > 1 else kwargs.get("closure")
        closure = given
        for before in self._before:
            closure = before(closure)
        if closure is given:
            return None
        return ((args[0], closure, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": closure})

    def _leave(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._running is None or _caller(inspect.currentframe()) is not self._running:
            return
        self._running = None
        for after in self._after:
            after()


def _caller(frame: FrameType | None) -> FrameType | None:
    """The frame of torch's wrapper around a step; ``frame`` is that of the method that a hook called."""
    frame = None if frame is None else frame.f_back
    while frame is not None and frame.f_code is _HOOK:
        frame = frame.f_back
    return frame


def _is_inside(frame: FrameType | None, outer: FrameType) -> bool:
    """Whether ``outer`` is still running, and ``frame`` within it."""
    while frame is not None and frame is not outer:
        frame = frame.f_back
    return frame is not None
