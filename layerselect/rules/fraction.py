"""A share of the layers, those with the highest scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .base import Rule, Selection, check_fraction


@dataclass(eq=False)
class Fraction(Rule):
    """The highest-ranked share ``p`` of the layers, rounded to the nearest whole number (half up), at least one."""

    p: float = 0.5

    name = "fraction"
    example = "fraction:p=0.5"

    def __post_init__(self) -> None:
        check_fraction(self.name, "p", self.p)

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        return Selection(*self._backend.top_ranked(scores, status, self._count(scores.numel())))

    def kernel_options(self, num_layers: int, device: torch.device) -> dict[str, Any]:
        return {"kind": "top", "k": self._count(num_layers)}

    def _count(self, num_layers: int) -> int:
        return max(1, math.floor(self.p * num_layers + 0.5))
