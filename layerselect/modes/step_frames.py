"""Steps of an optimizer that run inside one another, as ``super().step()`` makes them: each runs the hooks."""

from __future__ import annotations

import inspect
from types import FrameType

from ..layers.model_hooks import ModelHook


class OuterStep:
    """Tells the outermost step of an optimizer from those inside it, for a pair of hooks on its steps.

    Whether the outer step is still running, or was left by an exception long ago, the stack tells.
    """

    def __init__(self) -> None:
        self._running: FrameType | None = None

    def begins(self) -> bool:
        """For the hook before the step, itself and no helper of it: whether this step is the outermost."""
        caller = _caller()
        if self._running is not None and _is_inside(caller, self._running):
            return False
        self._running = caller
        return True

    def ends(self) -> bool:
        """For the hook after the step: whether that was the outermost."""
        if self._running is None or _caller() is not self._running:
            return False
        self._running = None
        return True

    def runs(self) -> bool:
        """Whether the caller is inside a step."""
        return self._running is not None and _is_inside(inspect.currentframe(), self._running)

    def forget(self) -> None:
        """No step is running."""
        self._running = None


def _caller() -> FrameType | None:
    """The frame of torch's wrapper around a step, for the methods that a hook asks."""
    method = inspect.currentframe().f_back  # type: ignore[union-attr]
    hook = method.f_back if method is not None else None
    caller = hook.f_back if hook is not None else None
    while caller is not None and caller.f_code is ModelHook.__call__.__code__:
        caller = caller.f_back
    return caller


def _is_inside(frame: FrameType | None, outer: FrameType) -> bool:
    """Whether ``outer`` is still running, and ``frame`` within it."""
    while frame is not None and frame is not outer:
        frame = frame.f_back
    return frame is not None
