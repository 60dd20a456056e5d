"""IR-Tuning's rule: cut the distribution of gradient norms where both sides are most uniform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import LayerSelectError
from .base import Rule, Selection


@dataclass(eq=False)
class VarianceSplit(Rule):
    """Sorts the scores and cuts them in two groups so that the sum of the groups' variances is least.

    Source: Liu & Litman, Findings of EMNLP 2025, arXiv 2510.00268; the same authors, Findings of EACL
    2026, arXiv 2602.00477, eq. 10-11. The population variances are unweighted and in float64.

    Args:
        window: keeps the cuts k with k - 1 in [int(a m), int(b m)] for m ranked layers, against a skewed
            distribution whose best cut isolates one layer.
        inclusive: the layer whose score is the threshold trains too, as in the authors' code.
        splits: 2 repeats the rule on the layers that the first split selected.
    """

    window: tuple[float, float] = (0.35, 0.65)
    inclusive: bool = True
    splits: int = 1

    name = "variance"

    def __post_init__(self) -> None:
        pair = self.window if isinstance(self.window, (list, tuple)) else ()
        numbers = [each for each in pair if isinstance(each, (int, float)) and not isinstance(each, bool)]
        if not len(pair) == len(numbers) == 2 or not 0.0 <= numbers[0] <= numbers[1] <= 1.0:
            raise LayerSelectError(f"rule 'variance': window={self.window!r} is not a pair 0 <= a <= b <= 1")
        self.window = (float(self.window[0]), float(self.window[1]))
        if self.splits not in (1, 2):
            raise LayerSelectError(f"rule 'variance': splits={self.splits!r} is neither 1 nor 2")

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        return Selection(*self._backend.variance_split(scores, status, *self.window, self.inclusive, self.splits))

    def kernel_options(self, num_layers: int, device: torch.device) -> dict[str, Any]:
        return {"kind": "variance", "window": self.window, "inclusive": self.inclusive, "splits": self.splits}
