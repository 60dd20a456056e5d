"""Random selection: the control every selection method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..utils.arguments import seeded
from .base import GeneratorState, Rule, Selection, check_count, check_layers, check_saved, drawn


@dataclass(eq=False)
class RandomLayers(Rule):
    """``k`` layers drawn uniformly without replacement, anew at every selection.

    Source: RST, the control of IST (Yao et al., arXiv 2410.11772); IR-Tuning's public code draws 4 of 32 layers.

    Args:
        k: how many; ``None`` takes half of the layers, rounded down, at least one.
        seed: seed of the rule's own generator. It lives on the host, so that every rank draws the same layers.
    """

    k: int | None = None
    seed: int = 0

    name = "random"
    example = "random:k=4"
    uses_scores = False
    draws = True

    def __post_init__(self) -> None:
        if self.k is not None:
            check_count(self.name, "k", self.k)
        self._generator = seeded(self.name, self.seed)

    def bind(self, layer_names: list[str], backend: str = "auto") -> None:
        super().bind(layer_names, backend)
        if self.k is not None:
            check_layers(self.name, "k", self.k, len(layer_names))

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        count = scores.numel()
        k = self.k if self.k is not None else max(1, count // 2)
        return drawn(torch.randperm(count, generator=self._generator)[:k].tolist(), status)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_saved(self, state, {"generator": GeneratorState()})
        self._generator.set_state(state["generator"])
