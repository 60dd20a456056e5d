"""A copy's room for all that an optimizer may change: what it changed of unselected layers is put back from there."""

from __future__ import annotations

from itertools import chain
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import _backend
from ..distributed.sharding import held_here, is_sharded

_PLACE = Tensor.data_ptr


class Held(NamedTuple):
    """A tensor that the step may change: the weights of ``parameter`` (``key`` is None), or a part of its state."""

    parameter: nn.Parameter
    key: Any
    tensor: Tensor
    layer: int


class Room:
    """All that an optimizer's step may change, and a copy's room for it.

    Args:
        held: the tensors; those of one parameter stand together, its weights first.
        optimizer: whose ``state`` they are.
        of: what the optimizer owned when they were found.
        gate: float32 [L + 1], read at every step.
    """

    def __init__(self, held: list[Held], optimizer: torch.optim.Optimizer, of: object, gate: Tensor) -> None:
        self.held = held
        self.of = of
        self._optimizer = optimizer
        self._all_states = list(optimizer.state.values())
        known = [optimizer.state.get(h.parameter) for h in held if h.key is None]
        self._states = [state for state in known if state is not None]
        self._values = list(chain.from_iterable(map(dict.values, self._states)))
        self._plain = not any(is_sharded(h.parameter) or is_sharded(h.tensor) for h in held)
        # The parameter itself, not what it held: its data may be replaced.
        self._tensors = [h.parameter if h.key is None else h.tensor for h in held]
        self._places = self._places_now()
        keeper = _backend.load("native", "cpu").Keeper
        self.keeper = keeper([held_here(h.tensor) for h in held], [h.layer for h in held], gate)

    def stands(self) -> bool:
        """Whether weights and state are still the tensors that were found."""
        all_states = self._optimizer.state.values()
        if len(all_states) != len(self._all_states) or not all(map(is_, all_states, self._all_states)):
            return False
        values = list(chain.from_iterable(map(dict.values, self._states)))
        if len(values) != len(self._values) or not all(map(is_, values, self._values)):
            return False
        return (list(map(_PLACE, self._tensors)) if self._plain else self._places_now()) == self._places

    def _places_now(self) -> list[int]:
        if self._plain:
            return list(map(_PLACE, self._tensors))
        return [held_here(tensor).data_ptr() for tensor in self._tensors]
