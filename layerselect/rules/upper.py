"""The layers nearest to the output."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..status import EXCLUDED
from .base import Rule, Selection, check_fraction, no_threshold


@dataclass(eq=False)
class Upper(Rule):
    """The layers nearest to the output, in every step.

    Args:
        p: their share of all layers, rounded to the nearest whole number (half up), at least one.
    """

    p: float = 0.5

    name = "upper"
    example = "upper:p=0.5"
    uses_scores = False

    def __post_init__(self) -> None:
        check_fraction(self.name, "p", self.p)

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        count = max(1, math.floor(self.p * status.numel() + 0.5))
        mask = torch.arange(status.numel(), device=status.device) >= status.numel() - count
        return Selection(mask & (status != EXCLUDED), no_threshold(scores))
