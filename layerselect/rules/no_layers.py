"""No layer: only what stands outside the layers trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Rule, Selection, no_threshold


@dataclass(eq=False)
class NoLayers(Rule):
    """No layer: only the parameters outside the layers train, as a fresh classifier on a frozen model."""

    name = "none"
    uses_scores = False
    constant = True

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        return Selection(torch.zeros_like(status, dtype=torch.bool), no_threshold(scores))
