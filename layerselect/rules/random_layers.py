"""Random selection: the control every selection method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import LayerSelectError
from ..status import EXCLUDED
from .base import Rule, Selection, check_count, no_threshold


@dataclass(eq=False)
class RandomLayers(Rule):
    """``k`` layers drawn uniformly without replacement, anew at every selection (RST).

    Args:
        k: how many; ``None`` takes half of the layers, rounded down, at least one.
        seed: of the rule's own generator, which lives on the host: every rank draws the same layers.
    """

    k: int | None = None
    seed: int = 0

    name = "random"
    uses_scores = False

    def __post_init__(self) -> None:
        if self.k is not None:
            check_count(self.name, "k", self.k)
        self._generator = torch.Generator().manual_seed(self.seed)

    def bind(self, layer_names: list[str], backend: str = "auto") -> None:
        super().bind(layer_names, backend)
        if self.k is not None and self.k > len(layer_names):
            raise LayerSelectError(f"rule 'random': k={self.k} is more than the {len(layer_names)} layers of the model")

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        count = scores.numel()
        k = self.k if self.k is not None else max(1, count // 2)
        mask = torch.zeros(count, dtype=torch.bool)
        mask[torch.randperm(count, generator=self._generator)[:k]] = True
        return Selection(mask.to(scores.device) & (status != EXCLUDED), no_threshold(scores))

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if set(state) != {"generator"}:
            raise LayerSelectError(f"the saved state is not one of rule 'random': it holds {sorted(state)}")
        self._generator.set_state(state["generator"])
