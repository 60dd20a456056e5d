"""BAdam's schedule: one layer at a time, in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import LayerSelectError
from ..utils.arguments import seeded
from ..utils.saved_schema import Whole
from .base import GeneratorState, Rule, Selection, check_count, check_saved, drawn, layer_list

ORDERS = ("ascending", "descending", "random")


@dataclass(eq=False)
class BlockCyclic(Rule):
    """One layer trains for ``interval`` selections, then the next one; after the last layer the cycle starts again.

    Source: Luo et al., BAdam, arXiv 2404.02827, Algorithm 1, with the defaults of the authors' code. They forget the
    optimizer's state of a block when they leave it, and train nothing outside the block; here the state is the
    selector's affair and outer parameters train in every step.

    Args:
        interval: for how many selections a layer trains (the paper's K).
        order: ``"descending"``, ``"ascending"`` or ``"random"``, which shuffles every cycle anew.
        seed: seed of the rule's own generator. It lives on the host, so that every rank takes the same order.
    """

    interval: int = 50
    order: str = "descending"
    seed: int = 0

    name = "block-cyclic"
    example = "block-cyclic:interval=50"
    uses_scores = False
    draws = True

    def __post_init__(self) -> None:
        check_count(self.name, "interval", self.interval)
        if self.order not in ORDERS:
            raise LayerSelectError(f"rule 'block-cyclic': order={self.order!r} is none of {', '.join(ORDERS)}")
        self._generator = seeded(self.name, self.seed)
        self._selections = 0
        self._layer = 0
        self._ahead: list[int] = []  # of this cycle, the next one last

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        if self._selections % self.interval == 0:
            self._ahead = self._ahead or self._cycle(scores.numel())
            self._layer = self._ahead.pop()
        self._selections += 1
        return drawn([self._layer], status)

    def _cycle(self, count: int) -> list[int]:
        if self.order == "random":
            return torch.randperm(count, generator=self._generator).tolist()
        return list(range(count)) if self.order == "descending" else list(range(count))[::-1]

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self._generator.get_state(),
            "selections": self._selections,
            "layer": self._layer,
            "ahead": list(self._ahead),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        layers = self._num_layers
        kinds = {
            "generator": GeneratorState(),
            "selections": Whole(),
            "layer": Whole(high=layers - 1),
            "ahead": layer_list(layers),
        }
        check_saved(self, state, kinds)
        self._generator.set_state(state["generator"])
        self._selections, self._layer = int(state["selections"]), int(state["layer"])
        self._ahead = list(state["ahead"])
