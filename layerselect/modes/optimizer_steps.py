"""Counts the steps of whatever optimizers hold some parameters, attached to a selector or not."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook


class OptimizerSteps:
    """How often the busiest optimizer over these parameters has stepped since :meth:`reset`.

    Args:
        on_step: called with that number after each step of such an optimizer.
    """

    def __init__(self, on_step: Callable[[int], None]) -> None:
        self._on_step = on_step
        self._parameters: set[int] = set()
        self._counts: weakref.WeakKeyDictionary[torch.optim.Optimizer, int] = weakref.WeakKeyDictionary()
        watch = weakref.WeakMethod(self._after_step)
        self._handle = register_optimizer_step_post_hook(lambda optimizer, args, kwargs: _call(watch, optimizer))

    def follow(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = {id(p) for p in parameters}

    def reset(self) -> None:
        self._counts.clear()

    def close(self) -> None:
        self._handle.remove()

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if any(id(p) in self._parameters for group in optimizer.param_groups for p in group["params"]):
            self._counts[optimizer] = self._counts.get(optimizer, 0) + 1
            self._on_step(self._counts[optimizer])


def _call(method: weakref.WeakMethod[Callable[..., None]], *args: Any) -> None:
    function = method()
    if function is not None:
        function(*args)
