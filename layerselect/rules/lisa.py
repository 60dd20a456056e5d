"""LISA: a few layers drawn at random, for a while."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..utils.arguments import seeded
from ..utils.saved_schema import Whole
from .base import GeneratorState, Rule, Selection, check_count, check_layers, check_saved, drawn, layer_list


@dataclass(eq=False)
class Lisa(Rule):
    """``n`` layers drawn uniformly without replacement, drawn anew every ``interval`` selections.

    Source: Pan et al., LISA, arXiv 2403.17919, Algorithm 1, whose embedding and head train in every step: they are
    outer parameters here, which no rule selects away.

    Args:
        n: how many layers train (the paper's gamma).
        interval: for how many selections a draw stands (the paper's K).
        seed: seed of the rule's own generator. It lives on the host, so that every rank draws the same layers.
    """

    n: int = 2
    interval: int = 20
    seed: int = 0

    name = "lisa"
    example = "lisa:n=2;interval=20"
    uses_scores = False
    draws = True

    def __post_init__(self) -> None:
        check_count(self.name, "n", self.n)
        check_count(self.name, "interval", self.interval)
        self._generator = seeded(self.name, self.seed)
        self._selections = 0
        self._drawn: list[int] = []

    def bind(self, layer_names: list[str], backend: str = "auto") -> None:
        super().bind(layer_names, backend)
        check_layers(self.name, "n", self.n, len(layer_names))

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        if self._selections % self.interval == 0:
            self._drawn = torch.randperm(scores.numel(), generator=self._generator)[: self.n].tolist()
        self._selections += 1
        return drawn(self._drawn, status)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state(), "selections": self._selections, "drawn": list(self._drawn)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        layers = layer_list(self._num_layers)
        check_saved(self, state, {"generator": GeneratorState(), "selections": Whole(), "drawn": layers})
        self._generator.set_state(state["generator"])
        self._selections, self._drawn = int(state["selections"]), list(state["drawn"])
