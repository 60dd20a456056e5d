"""What differences a comparison will be able to tell, said before it trains anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import chdtri, ndtr

from ...utils.paired import Variance, together
from .verdicts import CONFIDENCE, EQUAL_CONFIDENCE

#: How often a difference of the promised size is told.
POWER = 0.8
#: Of a distribution over which a mean is taken.
_POINTS = 200

#: Measured on IteraTeR sentences with MiniLM: what remains of the variance of macro-F1 between two rows because the
#: rows answer examples differently, what the seeds add to that by chance, and the variance of whole runs.
#: Means of the rows ir, top-half, cost-aware, probe-once and random against all, on five folds with two seeds
#: (docs/measurements/iterater-minilm). Rows disagree on examples no more than seeds of one row do, so nothing remains
#: for the first.
ROWS, CHANCE, RUNS = 0.0, 0.096, 5e-4


@dataclass(frozen=True)
class Shape:
    """How large a comparison is in the end.

    Attributes:
        documents: on which it tests.
        seeds: runs of each fold.
        folds: 1 where there are none.
        rows: how many are compared with the reference.
        margin: within which two rows are as good.
    """

    documents: int
    seeds: int
    folds: int
    rows: int
    margin: float


@dataclass(frozen=True)
class Power:
    """What a comparison can tell.

    Attributes:
        documents, seeds: with as many.
        difference: one of this size between a row and the reference is found in 80 % of such comparisons.
        equality: the share of comparisons that find rows as good which are exactly so, within the margin.
        measured: whether finished runs of the comparison say so, and not those of another one.
    """

    documents: int
    seeds: int
    difference: float
    equality: float
    measured: bool


def power_of(variance: Variance, shape: Shape, *, measured: bool) -> Power:
    """Which difference is found in 80 % of comparisons, and how often rows that do not differ are found as good.

    Both are means over what a comparison may find of how much its runs differ (by the chi-square distribution), since
    its intervals are wide where it finds much.

    Args:
        variance: of a difference, the true one.
        measured: whether it was measured in the comparison itself.
    """
    spread = variance.total**0.5
    if spread == 0:
        return Power(shape.documents, shape.seeds, 0.0, 1.0, measured)
    found = [replace(variance, between=variance.between * factor) for factor in _factors(variance)]
    widths, equal_widths = (
        np.array([each.width(quantile) for each in found])
        for quantile in (together(shape.rows, CONFIDENCE), together(shape.rows, EQUAL_CONFIDENCE))
    )
    low, high = 0.0, float(widths.max()) + 5 * spread
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if ndtr((middle - widths) / spread).mean() < POWER else (low, middle)
    within = float(np.maximum(0.0, 2 * ndtr((shape.margin - equal_widths) / spread) - 1).mean())
    return Power(shape.documents, shape.seeds, high, within, measured)


def _factors(variance: Variance) -> list[float]:
    """What the measured difference between runs may be of the true one: quantiles that are equally likely."""
    freedom = variance.folds * (variance.seeds - 1)
    if freedom < 1 or variance.between == 0:
        return [1.0]
    factors: list[float] = (chdtri(freedom, (np.arange(_POINTS) + 0.5) / _POINTS) / freedom).tolist()
    return factors


def measured_power(variances: Sequence[Variance], shape: Shape) -> Power:
    """What a comparison can tell if its missing runs are like the finished ones: the median of its rows.

    Args:
        variances: of the rows that have some result.
    """
    final = [each.with_more(shape.documents, shape.seeds, shape.folds) for each in variances]
    return power_of(sorted(final, key=lambda each: each.total)[len(final) // 2], shape, measured=True)


def expected_power(labels: Sequence[int], shape: Shape) -> Power | None:
    """What a comparison of macro-F1 can tell before any run of it is finished, by what the first large one showed.

    The variance of a label's F1 falls with the number of its examples, and macro-F1 is the mean over the labels. How
    much remains of it when two rows answer the same examples, and how much is due to chance and to whole runs, was
    measured on IteraTeR sentences with MiniLM (``docs/measurements``).

    Args:
        labels: how many examples of each label are tested in all folds together.
    """
    known = [count for count in labels if count]
    if not known or shape.seeds < 2:
        return None
    whole = sum(1 / count for count in known) / len(known) ** 2
    chance, runs = CHANCE * whole / shape.seeds, RUNS / (shape.seeds * shape.folds)
    variance = Variance(ROWS * whole + chance, chance, chance + runs, shape.documents, shape.seeds, shape.folds)
    return power_of(variance, shape, measured=False)
