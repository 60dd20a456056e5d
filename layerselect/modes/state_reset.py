"""``on_freeze="reset"``: the memory of the optimizer follows the selection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import LayerSelectError
from ..layers.model_hooks import ModelHook
from .gate import Gate

ON_FREEZE = ("keep", "reset")


class StateReset:
    """Drops the optimizer's state of the layers that stop training, once the last step that used it is over.

    A layer that returns starts as a fresh parameter does: the optimizer makes its state anew, with step count 0. On a
    device only a
    fused optimizer does that without a wait: others are gated by the host in such a step.

    Args:
        optimizer: whose ``state`` is dropped, parameter by parameter.
        layers: for each layer, its parameters.
        gate: of the optimizer; it is told.
        keep: called after each ``optimizer.step()``; says which layers go on.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layers: Sequence[Sequence[nn.Parameter]],
        gate: Gate,
        keep: Callable[[], Sequence[bool]],
    ) -> None:
        self._optimizer = optimizer
        self._layers = layers
        self._gate = gate
        self._keep = keep
        self._handle = optimizer.register_step_post_hook(ModelHook(self._after_step))

    def close(self) -> None:
        self._handle.remove()

    def _after_step(self, optimizer: Any, args: tuple, kwargs: dict) -> None:
        for parameters, kept in zip(self._layers, self._keep(), strict=True):
            if not kept:
                for parameter in parameters:
                    self._optimizer.state.pop(parameter, None)
                self._gate.state_dropped(parameters)


def check_on_freeze(on_freeze: str, mode: str) -> None:
    """Raises LayerSelectError unless ``on_freeze`` is known, and has a meaning in ``mode``."""
    if on_freeze not in ON_FREEZE:
        raise LayerSelectError(f"on_freeze={on_freeze!r} is none of {', '.join(map(repr, ON_FREEZE))}")
    if on_freeze == "reset" and mode != "freeze":
        raise LayerSelectError(
            f"on_freeze='reset' has no meaning in mode {mode!r}, which freezes nothing and keeps the optimizer's "
            "state of unselected layers bit for bit: use mode='freeze', or leave on_freeze='keep'"
        )
