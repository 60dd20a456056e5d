"""Every layer: plain fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..status import EXCLUDED
from .base import Rule, Selection, no_threshold


@dataclass(eq=False)
class All(Rule):
    """Every layer: plain fine-tuning, with the scores recorded."""

    name = "all"
    uses_scores = False
    constant = True

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        return Selection(status != EXCLUDED, no_threshold(scores))

    def kernel_options(self, num_layers: int, device: torch.device) -> dict[str, Any]:
        return {"kind": "all"}
