"""Hooks on a user's modules, of which a copy of the model keeps nothing."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

#: What replaces a hook in a copy: it takes whatever a hook is given, does nothing and returns ``None``.
#: It is the standard library's, so that a model that was pickled whole can be loaded where this package is not
#: installed.
_NOTHING = contextlib.nullcontext.__exit__


class ModelHook:
    """Wraps a function that is registered as a hook on a module or an optimizer, so that copies are free of it.

    ``copy.deepcopy`` and ``pickle`` copy a module's hooks with it, and with them everything that a hook refers to. This
    one is replaced in the copy by a function of the standard library that does nothing. So the copy of a model holds no
    part of a selector.

    Args:
        function: what to call.
        lent: says which parameters have been made to require no gradient for as long as something runs. Who copies the
            model meanwhile, from a hook for example, gets them as the user set them: requiring one.
        traced: whether a compiled model does what ``function`` does. Where that is nothing, it is not to be looked
            into: what it looks at, the number of a layer for example, would be a reason to compile again.
    """

    __slots__ = ("_function", "_lent", "_traced")

    def __init__(
        self,
        function: Callable[..., Any],
        lent: Callable[[], Iterable[nn.Parameter]] | None = None,
        *,
        traced: bool = True,
    ) -> None:
        self._function = function
        self._lent = lent
        self._traced = traced

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._traced and torch.compiler.is_compiling():
            return None
        return self._function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        return _nothing_left(copy.deepcopy(self._borrowed(), memo))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        borrowed = self._borrowed()
        if borrowed:
            return _nothing_left, (borrowed,)
        return getattr, (contextlib.nullcontext, _NOTHING.__name__)

    def _borrowed(self) -> list[nn.Parameter]:
        return [] if self._lent is None else [p for p in self._lent() if not p.requires_grad]


def is_ours(hook: Any) -> bool:
    """Whether a hook is one of this package's, or what is left of one in a copy: it changes no forward pass."""
    return isinstance(hook, ModelHook) or hook is _NOTHING


def _nothing_left(parameters: Iterable[nn.Parameter]) -> Callable[..., Any]:
    for parameter in parameters:
        parameter.requires_grad = True
    return _NOTHING
