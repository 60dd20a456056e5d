"""The layers that a Layer Card proposes, in every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import LayerSelectError
from ..placement.rule import mask_by_names
from ..rules.base import Rule, Selection, no_threshold
from ..status import EXCLUDED
from .card import LayerCard


@dataclass(eq=False)
class LayerCardRule(Rule):
    """What :meth:`layerselect.card.LayerCard.place` chooses from a card that was measured before the training.

    Layers are recognised by their names, whatever wrappers (``peft``, ``torch.compile``) put in front.

    Args:
        card: the path of a card, of the folder that ``layerselect card`` wrote, or a
            :class:`~layerselect.card.LayerCard`.
        k: at most so many layers.
        budget: at most this fraction of the step that trains all layers.
        objective: ``performance``, ``cost`` or ``balanced``.

    Raises:
        LayerSelectError: there is no such card, or it cannot place by these bounds.
    """

    card: str | LayerCard = ""
    k: int | None = None
    budget: float | None = None
    objective: str = "performance"
    #: The names of the chosen layers, as the card has them.
    chosen: list[str] = field(init=False)

    name = "layer-card"
    example = 'layer-card:card="DIR";k=4'
    uses_scores = False

    def __post_init__(self) -> None:
        if not self.card:
            raise LayerSelectError("rule 'layer-card': card= is missing; give the folder that 'layerselect card' wrote")
        card = self.card if isinstance(self.card, LayerCard) else LayerCard.load(self.card)
        self._names = card.names
        self._fingerprint = card.model["fingerprint"]
        self.chosen = [card.names[layer] for layer in card.place(self.k, budget=self.budget, objective=self.objective)]

    def bind(self, layer_names: list[str], backend: str = "auto") -> None:
        super().bind(layer_names, backend)
        self._mask = mask_by_names(layer_names, self._names, self.chosen, owner="rule 'layer-card': the card")

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        self._mask = self._mask.to(status.device)
        return Selection(self._mask & (status != EXCLUDED), no_threshold(status))

    def config(self) -> dict[str, Any]:
        """With the path of the card, or the fingerprint of its model, and the chosen layers."""
        card = self.card if isinstance(self.card, str) else f"model {self._fingerprint}"
        return {"card": card, "k": self.k, "budget": self.budget, "objective": self.objective, "chosen": self.chosen}
