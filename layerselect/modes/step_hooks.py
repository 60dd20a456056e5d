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

    __slots__ = ("_handles", "after", "before", "inside", "optimizer", "running")

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.before: list[Before] = []
        self.after: list[After] = []
        self.running: FrameType | None = None  #: the frame of torch's wrapper around the outermost step
        self.inside = False  #: other steps have begun inside it
        self._handles: list[Any] = []

    def add(self, before: Before, after: After) -> None:
        """From now on these are called."""
        self.before.append(before)
        self.after.insert(0, after)
        if not self._handles:
            self._handles = [
                self.optimizer.register_step_pre_hook(_Enter(self)),
                self.optimizer.register_step_post_hook(_Leave(self)),
            ]

    def remove(self, before: Before, after: After) -> None:
        """They are called no more; a step that is running has no end for anybody."""
        self.before.remove(before)
        self.after.remove(after)
        self.running = None
        if not self.before:
            for handle in self._handles:
                handle.remove()
            self._handles = []

    def runs(self) -> bool:
        """Whether the caller is inside a step."""
        return self.running is not None and _is_inside(inspect.currentframe(), self.running)


class _Enter(ModelHook):
    """The hook in front of a step. It does by itself what it would call otherwise: each call costs."""

    __slots__ = ("_steps",)

    def __init__(self, steps: StepHooks) -> None:
        super().__init__(_nothing)
        self._steps = steps

    def __call__(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        steps, caller = self._steps, inspect.currentframe().f_back  # type: ignore[union-attr]
        if steps.running is not None and _is_inside(caller, steps.running):
            steps.inside = True
            return None
        steps.running, steps.inside = caller, False
        # torch hands the hook all positional arguments of step(), the optimizer itself first.
        given: Closure | None = args[1] if len(args) > 1 else kwargs.get("closure")
        closure = given
        for before in steps.before:
            closure = before(closure)
        if closure is given:
            return None
        return ((args[0], closure, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": closure})


class _Leave(ModelHook):
    """The hook behind a step."""

    __slots__ = ("_steps",)

    def __init__(self, steps: StepHooks) -> None:
        super().__init__(_nothing)
        self._steps = steps

    def __call__(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        steps = self._steps
        if steps.running is None:
            return
        if steps.inside and inspect.currentframe().f_back is not steps.running:  # type: ignore[union-attr]
            return
        steps.running = None
        for after in steps.after:
            after()


def _nothing(*_: Any) -> None:
    """What the hooks here would call if they did nothing by themselves."""


def _is_inside(frame: FrameType | None, outer: FrameType) -> bool:
    """Whether ``outer`` is still running, and ``frame`` within it."""
    while frame is not None and frame is not outer:
        frame = frame.f_back
    return frame is not None
