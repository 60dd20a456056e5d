"""Given layers, in every step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import LayerSelectError
from ..status import EXCLUDED
from ..utils.device_copies import to_device
from .base import Rule, Selection, no_threshold


@dataclass(eq=False)
class Fixed(Rule):
    """The given layers in every step.

    Args:
        layers: indices into ``selector.layer_names`` (negative ones count from the end) or names in it.
        probe: the rule counts as one that reads scores. The layers are the same, but in mode ``freeze`` all layers take
            gradients in the first step and every ``probe_every`` steps (the others' are dropped before the optimizer's
            step), so that the history tells what another rule would have chosen.
    """

    layers: list[int | str]
    probe: bool = False

    name = "fixed"
    example = "fixed:layers=[0,1]"
    uses_scores = False
    constant = True

    def __post_init__(self) -> None:
        if isinstance(self.layers, (str, Mapping)) or not isinstance(self.layers, Iterable):
            raise LayerSelectError(f"rule 'fixed': layers={self.layers!r} is no list; a single layer is layers=[3]")
        self.layers = list(self.layers)
        if not self.layers:
            raise LayerSelectError("rule 'fixed': layers=[] selects nothing; name at least one layer")
        if not isinstance(self.probe, bool):
            raise LayerSelectError(f"rule 'fixed': probe={self.probe!r} is neither true nor false")
        self.uses_scores = self.probe

    def bind(self, layer_names: list[str], backend: str = "auto") -> None:
        super().bind(layer_names, backend)
        mask = torch.zeros(len(layer_names), dtype=torch.bool)
        for layer in self.layers:
            mask[self._index(layer, layer_names)] = True
        self._mask = mask

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        self._mask = self._mask.to(scores.device)
        return Selection(self._mask & (status != EXCLUDED), no_threshold(scores))

    def kernel_options(self, num_layers: int, device: torch.device) -> dict[str, Any]:
        return {"kind": "fixed", "fixed": to_device(self._mask, device)}

    def config(self) -> dict[str, Any]:
        """The configuration, as JSON values; without ``probe`` where it is off, as in runs that were saved before there
        was one.
        """
        values = super().config()
        if not self.probe:
            del values["probe"]
        return values

    @staticmethod
    def _index(layer: int | str, names: list[str]) -> int:
        if isinstance(layer, str) and layer in names:
            return names.index(layer)
        if isinstance(layer, int) and not isinstance(layer, bool) and -len(names) <= layer < len(names):
            return layer % len(names)
        raise LayerSelectError(
            f"rule 'fixed': layer {layer!r} is none of the {len(names)} layers {names[0]!r} to {names[-1]!r}"
        )
