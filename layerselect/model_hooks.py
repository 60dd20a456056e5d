"""Hooks on a user's modules, of which a copy of the model keeps nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class ModelHook:
    """What is registered on a module (``register_forward_hook`` and its kin) in the place of ``function``.

    ``copy.deepcopy`` and ``pickle`` copy a module's hooks with it, and so everything that a hook refers to. The copy of this
    hook refers to nothing and does nothing, so that a copy of a model has no part of a selector in it.

    Args:
        function: what to call; ``None`` makes a hook that does nothing.
    """

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return None if self._function is None else self._function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelHook:
        return ModelHook()

    def __copy__(self) -> ModelHook:
        return ModelHook()

    def __reduce__(self) -> tuple[type[ModelHook], tuple]:
        return ModelHook, ()
