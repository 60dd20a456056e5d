"""The layers of a saved placement, in every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import LayerSelectError
from ..rules.base import Rule, Selection, no_threshold
from ..status import EXCLUDED
from ..utils.device_copies import to_device
from .placement import Placement


@dataclass(eq=False)
class PlacementRule(Rule):
    """The layers of a placement, which was chosen before the training.

    Layers are recognised by their names, whatever wrappers (``peft``, ``torch.compile``) put in front.

    Args:
        file: the path of a ``placement.json``, of the folder that holds one, or a
            :class:`~layerselect.placement.Placement`.

    Raises:
        LayerSelectError: there is no such placement.
    """

    file: str | Placement = ""

    name = "placement"
    example = 'placement:file="FILE"'
    uses_scores = False
    constant = True

    def __post_init__(self) -> None:
        if not self.file:
            raise LayerSelectError(
                "rule 'placement': file= is missing; name a file of 'layerselect pilot' or 'layerselect card place'"
            )
        self._placement = self.file if isinstance(self.file, Placement) else Placement.load(self.file)

    @property
    def trains_layers(self) -> bool:
        """Whether the placement has any layer."""
        return bool(self._placement.layers)

    def bind(self, layer_names: list[str], backend: str = "auto") -> None:
        super().bind(layer_names, backend)
        self._mask = mask_by_names(
            layer_names, self._placement.names, self._placement.chosen, owner="rule 'placement': the placement"
        )

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        self._mask = self._mask.to(status.device)
        return Selection(self._mask & (status != EXCLUDED), no_threshold(status))

    def kernel_options(self, num_layers: int, device: torch.device) -> dict[str, Any]:
        return {"kind": "fixed", "fixed": to_device(self._mask, device)}

    def config(self) -> dict[str, Any]:
        """With the path of the file, and the names of the layers."""
        file = self.file if isinstance(self.file, str) else "given"
        return {"file": file, "chosen": self._placement.chosen}


def mask_by_names(ours: list[str], theirs: list[str], chosen: list[str], *, owner: str) -> Tensor:
    """Which of the model's layers were chosen among those of another description of the same model.

    Args:
        ours: names of the model's layers.
        theirs: names of the layers in the description, in the same order, perhaps with other wrappers in front.
        chosen: of ``theirs``.
        owner: the description, for messages.

    Returns:
        bool [L].

    Raises:
        LayerSelectError: they are not the same layers.
    """
    kind = owner.rpartition(" ")[2]
    if len(ours) != len(theirs):
        raise LayerSelectError(f"{owner} has {len(theirs)} layers, the model {len(ours)}: use the {kind} of this model")
    for mine, other in zip(ours, theirs, strict=True):
        if not (_ends_in(mine, other) or _ends_in(other, mine)):
            raise LayerSelectError(
                f"{owner} has a layer {other!r} where the model has {mine!r}: use the {kind} of this model"
            )
    return torch.tensor([name in chosen for name in theirs])


def _ends_in(name: str, ending: str) -> bool:
    return name == ending or name.endswith("." + ending)
