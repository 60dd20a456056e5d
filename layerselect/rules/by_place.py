"""Rules that choose by where a layer stands, whatever its gradient."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..status import EXCLUDED
from .base import Rule, Selection, check_fraction, no_threshold


@dataclass(eq=False)
class ByPlace(Rule):
    """The same layers in every step, by their places.

    Args:
        p: their share of all layers, rounded to the nearest whole number (half up), at least one.
    """

    p: float = 0.5

    uses_scores = False
    constant = True

    def __post_init__(self) -> None:
        check_fraction(self.name, "p", self.p)

    @abstractmethod
    def layers(self, count: int, of: int) -> list[int]:
        """Which ``count`` layers of ``of``, numbered from the input."""

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        total = status.numel()
        count = max(1, math.floor(self.p * total + 0.5))
        mask = torch.zeros(total, dtype=torch.bool)
        mask[self.layers(count, total)] = True
        return Selection(mask.to(status.device) & (status != EXCLUDED), no_threshold(scores))
