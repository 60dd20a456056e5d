"""Aletheia: look at the gradients for a few steps, choose once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..layers.view import ModelView
from ..status import EXCLUDED, MEASURED
from ..utils.mirror import Mirror
from ..utils.saved_schema import Mapped, Maybe
from ..utils.saved_tensors import Numbers
from .base import MirrorState, Rule, Selection, check_count, check_saved, drawn, layer_list, no_threshold
from .wrapping import Wrapping, base_rule, choose_by


@dataclass(eq=False)
class ProbeOnce(Wrapping):
    """All layers train and are scored for ``steps`` steps; ``base`` then chooses by their mean scores, for good.

    Source: Saket, Aletheia, arXiv 2604.15351: gradient norms summed over five batches, the upper half of the layers
    kept, adapters in no others. Its probe moves no weight; here the probing steps are steps of the training, and move
    all layers.

    The means are formed on the device, and the host reads them once. On the CPU it reads them at once. Elsewhere it
    reads them a step later, so that it need not wait; all layers train for one step more.

    Args:
        steps: how many steps after the warm-up are averaged. A step in which a layer's gradient is not finite does not
            count for this layer, and one in which none is (which a ``GradScaler`` skips) does not count at all.
        base: a rule, or its name with options, that decides by scores.
    """

    steps: int = 5
    base: str | Rule = "fraction:p=0.5"

    name = "probe-once"
    example = "probe-once:steps=5"
    uses_scores = False  # not in select(): the scores come with after_step()

    def __post_init__(self) -> None:
        check_count(self.name, "steps", self.steps)
        self.base = base_rule(self.name, self.base)

    def bind(self, layer_names: list[str], backend: str = "auto") -> None:
        super().bind(layer_names, backend)
        self._chosen: list[int] | None = None
        self._seen = torch.zeros((), dtype=torch.int64)  # on the device, since it knows which steps are skipped
        self._sums = torch.zeros(len(layer_names), dtype=torch.float64)
        self._counts = torch.zeros(len(layer_names), dtype=torch.int64)
        self._mirror = self._new_mirror(0, torch.device("cpu"))

    def _new_mirror(self, lag: int, device: torch.device) -> Mirror:
        """Of the means so far, and of how many steps they are."""
        return Mirror(self._num_layers + 1, lag, device, torch.float64)

    def prepare(self, view: ModelView) -> None:
        self.decider.prepare(view)
        self._sums, self._counts = self._sums.to(view.device), self._counts.to(view.device)
        self._seen = self._seen.to(view.device)
        self._mirror = self._new_mirror(0 if view.device.type == "cpu" else 1, view.device)

    def without_model(self) -> dict[str, Any]:
        return {"_mirror": None}

    def after_step(self, scores: Tensor, status: Tensor) -> None:
        if self._chosen is not None:
            return
        self.decider.after_step(scores, status)
        fresh = (status == MEASURED) & (self._seen < self.steps)
        self._sums += scores.double().where(fresh, 0.0)
        self._counts += fresh
        self._seen += fresh.any()
        self._mirror.push(torch.cat([self._sums / self._counts, self._seen.double().reshape(1)]))

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        if self._chosen is None:
            *means, seen = self._mirror.read() or [0]
            if seen < self.steps:
                return Selection(status != EXCLUDED, no_threshold(status))
            everywhere = torch.full((len(means),), MEASURED, dtype=torch.uint8)
            self._chosen = [i for i, chosen in enumerate(choose_by(self.decider, means, everywhere).mask) if chosen]
        return drawn(self._chosen, status)

    def state_dict(self) -> dict[str, Any]:
        return {
            "seen": self._seen.cpu().clone(),
            "chosen": self._chosen,
            "sums": self._sums.cpu().clone(),
            "counts": self._counts.cpu().clone(),
            "mirror": self._mirror.state_dict(),
            "base": self.decider.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        layers = self._num_layers
        kinds = {
            "seen": Numbers("int", (), low=0),
            "chosen": Maybe(layer_list(layers)),
            "sums": Numbers("float", (layers,)),
            "counts": Numbers("int", (layers,), low=0),
            "mirror": MirrorState(self._mirror),
            "base": Mapped(),
        }
        check_saved(self, state, kinds)
        self.decider.load_state_dict(state["base"])
        self._mirror.load_state_dict(state["mirror"])
        self._seen.copy_(state["seen"])
        self._chosen = None if state["chosen"] is None else list(state["chosen"])
        self._sums.copy_(state["sums"])
        self._counts.copy_(state["counts"])
