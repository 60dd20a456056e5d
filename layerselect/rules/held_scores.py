"""Another rule by the scores that layers had when they last trained, as IR-Tuning's public code chooses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..layers.view import ModelView
from ..status import MEASURED
from ..utils.arguments import seeded
from ..utils.mirror import Mirror
from ..utils.saved_schema import Mapped, Maybe
from ..utils.saved_tensors import Numbers
from .base import GeneratorState, MirrorState, Selection, check_count, check_layers, check_saved, drawn, layer_list
from .wrapping import Wrapping, base_rule, choose_by


@dataclass(eq=False)
class HeldScores(Wrapping):
    """The first choice is random; from then on ``base`` chooses before each backward pass, by the score that each layer
    had in the last step in which it trained.

    Layers that are not selected are not measured, not even now and then: a layer keeps its score until it is selected
    again, and one that never was counts as 0. In mode ``freeze`` no step then takes gradients of more layers than it
    trains, and layers that are once left behind may never come back. Rule ``variance`` by itself measures all layers
    in the first step and in every probe.

    Source: the public code of IR-Tuning (arXiv 2510.00268), as far as it could be read: a random first choice, and
    scores of frozen layers that are held for good. How many layers its first choice has is not known; here it is half.

    Args:
        base: a rule, or its name with options, that decides by scores.
        k: how many layers are in the first choice; ``None`` takes half, rounded down, at least one.
        seed: of the first choice. Every rank draws the same layers.
    """

    base: str | Any = "variance"
    k: int | None = None
    seed: int = 0

    name = "held"
    example = 'held:base="variance"'
    uses_scores = False  # not in select(): the scores come with after_step()

    def __post_init__(self) -> None:
        if self.k is not None:
            check_count(self.name, "k", self.k)
        self._generator = seeded(self.name, self.seed)
        self.base = base_rule(self.name, self.base)

    def bind(self, layer_names: list[str], backend: str = "auto") -> None:
        super().bind(layer_names, backend)
        if self.k is not None:
            check_layers(self.name, "k", self.k, len(layer_names))
        self._first: list[int] | None = None
        self._held = torch.full((len(layer_names),), math.nan, dtype=torch.float64)
        self._mirror = self._new_mirror(0, torch.device("cpu"))

    def _new_mirror(self, lag: int, device: torch.device) -> Mirror:
        return Mirror(self._num_layers, lag, device, torch.float64)

    def prepare(self, view: ModelView) -> None:
        self.decider.prepare(view)
        self._held = self._held.to(view.device)
        self._mirror = self._new_mirror(0 if view.device.type == "cpu" else 1, view.device)

    def without_model(self) -> dict[str, Any]:
        return {"_mirror": None}

    def after_step(self, scores: Tensor, status: Tensor) -> None:
        self.decider.after_step(scores, status)
        self._held = torch.where(status == MEASURED, scores.double(), self._held)
        self._mirror.push(self._held)

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        held = self._mirror.read()
        if held is None or all(math.isnan(score) for score in held):
            return drawn(self._drawn_first(), status)
        return choose_by(self.decider, [0.0 if math.isnan(score) else score for score in held], status)

    def _drawn_first(self) -> list[int]:
        """The first choice, which stays until there are scores."""
        if self._first is None:
            k = self.k if self.k is not None else max(1, self._num_layers // 2)
            self._first = sorted(torch.randperm(self._num_layers, generator=self._generator)[:k].tolist())
        return self._first

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self._generator.get_state(),
            "first": self._first,
            "held": self._held.cpu().clone(),
            "mirror": self._mirror.state_dict(),
            "base": self.decider.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        kinds = {
            "generator": GeneratorState(),
            "first": Maybe(layer_list(self._num_layers)),
            "held": Numbers("float", (self._num_layers,)),
            "mirror": MirrorState(self._mirror),
            "base": Mapped(),
        }
        check_saved(self, state, kinds)
        self.decider.load_state_dict(state["base"])
        self._generator.set_state(state["generator"])
        self._mirror.load_state_dict(state["mirror"])
        self._first = None if state["first"] is None else list(state["first"])
        self._held.copy_(state["held"])
