"""Every layer whose score is high enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import LayerSelectError
from .base import Rule, Selection


@dataclass(eq=False)
class Threshold(Rule):
    """Every layer whose score is at least ``gamma``, in the units of the gradient norm. It may select none."""

    gamma: float = 0.0

    name = "threshold"
    example = "threshold:gamma=0.1"

    def __post_init__(self) -> None:
        if not math.isfinite(self.gamma):
            raise LayerSelectError(f"rule 'threshold': gamma={self.gamma!r} is not a finite number")

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        return Selection(*self._backend.above(scores, status, self.gamma))

    def kernel_options(self, num_layers: int, device: torch.device) -> dict[str, Any]:
        return {"kind": "threshold", "gamma": self.gamma}
