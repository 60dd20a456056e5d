"""The k layers with the highest scores."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .base import Rule, Selection, check_count

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class TopK(Rule):
    """The ``k`` highest-ranked layers; all of them where there are fewer. Of equal scores the later layer ranks
    higher.
    """

    k: int = 1

    name = "topk"
    example = "topk:k=4"

    def __post_init__(self) -> None:
        check_count(self.name, "k", self.k)

    def bind(self, layer_names: list[str], backend: str = "auto") -> None:
        super().bind(layer_names, backend)
        if self.k >= len(layer_names):
            logger.warning("rule 'topk': k=%d selects all of the %d layers", self.k, len(layer_names))

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        return Selection(*self._backend.top_ranked(scores, status, min(self.k, scores.numel())))

    def kernel_options(self, num_layers: int, device: torch.device) -> dict[str, Any]:
        return {"kind": "top", "k": self.k}
