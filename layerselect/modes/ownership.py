"""What of each layer an optimizer holds."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

import torch
from torch import nn


def holds(groups: Sequence[dict[str, Any]], seen: Sequence[Sequence[nn.Parameter]]) -> bool:
    """Whether the groups of an optimizer hold just these parameters, in this order."""
    if len(groups) != len(seen):
        return False
    for place, held in enumerate(seen):
        members = groups[place]["params"]
        if len(members) != len(held) or not all(map(is_, members, held)):
            return False
    return True


class Ownership:
    """Whose step moves which parameters: found once, and anew when the optimizer's groups have changed.

    Args:
        optimizer: its ``param_groups`` are looked at.
        layers: for each layer, its parameters; some may be in other optimizers.

    Attributes:
        seen: for each group, what it held at the last look.
        layers: for each layer, those of its parameters that the optimizer holds.
        outer: all else that the optimizer holds.
        mine: the layers of which it holds something.
        only: the layer, if that is one and there is nothing else.
        parts: for each of these, the groups with something of it: the group's place, and these parameters in the
            group's order.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, layers: Sequence[Sequence[nn.Parameter]]) -> None:
        self._optimizer = optimizer
        self._all = layers
        self.seen: list[list[nn.Parameter]] = []
        self.layers: list[list[nn.Parameter]] = []
        self.outer: list[nn.Parameter] = []
        self.only: int | None = None
        self.mine: list[int] = []
        self.parts: list[tuple[int, list[tuple[int, list[nn.Parameter]]]]] = []
        self._find()

    def look(self) -> bool:
        """Whether the groups hold other parameters than at the last look; what follows from that is found anew then."""
        if holds(self._optimizer.param_groups, self.seen):
            return False
        self._find()
        return True

    def _find(self) -> None:
        self.seen = [list(group["params"]) for group in self._optimizer.param_groups]
        held = {id(p) for group in self.seen for p in group}
        nothing: list[nn.Parameter] = []
        # Of many optimizers each holds little: a list for each layer of each would be as many as all of them are.
        self.layers = [nothing] * len(self._all)
        for layer, parameters in enumerate(self._all):
            if not held.isdisjoint(map(id, parameters)):
                self.layers[layer] = [p for p in parameters if id(p) in held]
        layer_of = {id(p): layer for layer, parameters in enumerate(self.layers) for p in parameters}
        self.outer = [p for group in self.seen for p in group if id(p) not in layer_of]
        self.mine = [layer for layer, parameters in enumerate(self.layers) if parameters]
        parts: dict[int, list[tuple[int, list[nn.Parameter]]]] = {layer: [] for layer in self.mine}
        for place, group in enumerate(self.seen):
            members: dict[int, list[nn.Parameter]] = {}
            for p in group:
                if id(p) in layer_of:
                    members.setdefault(layer_of[id(p)], []).append(p)
            for layer, own in members.items():
                parts[layer].append((place, own))
        self.parts = list(parts.items())
        self.only = self.mine[0] if len(self.mine) == 1 and not self.outer else None
