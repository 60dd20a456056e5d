"""Rules that take the layers with the highest scores: a number, a share, or all above a value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..errors import LayerSelectError
from .base import Rule, Selection, check_count, check_fraction


@dataclass(eq=False)
class TopK(Rule):
    """The ``k`` highest-ranked layers; all of them where there are fewer. Of equal scores the later layer ranks higher."""

    k: int = 1

    name = "topk"

    def __post_init__(self) -> None:
        check_count(self.name, "k", self.k)

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        return Selection(*self._backend.top_ranked(scores, status, min(self.k, scores.numel())))


@dataclass(eq=False)
class Fraction(Rule):
    """The highest-ranked share ``p`` of the layers, rounded to the nearest whole number (half up), at least one."""

    p: float = 0.5

    name = "fraction"

    def __post_init__(self) -> None:
        check_fraction(self.name, "p", self.p)

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        count = max(1, math.floor(self.p * scores.numel() + 0.5))
        return Selection(*self._backend.top_ranked(scores, status, count))


@dataclass(eq=False)
class Threshold(Rule):
    """Every layer whose score is at least ``gamma``, in the units of the gradient norm. It may select none."""

    gamma: float = 0.0

    name = "threshold"

    def __post_init__(self) -> None:
        if not math.isfinite(self.gamma):
            raise LayerSelectError(f"rule 'threshold': gamma={self.gamma!r} is not a finite number")

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        return Selection(*self._backend.above(scores, status, self.gamma))
