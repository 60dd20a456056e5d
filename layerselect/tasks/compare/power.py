"""What differences a comparison will be able to tell, said before it trains anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, nctdtrinc, ndtr

from .verdicts import CONFIDENCE, EQUAL_CONFIDENCE, Variance, student

#: How often a difference of the promised size is told.
POWER = 0.8

#: Measured on IteraTeR sentences with MiniLM: what remains of the variance of macro-F1 between two rows because the
#: rows answer examples differently, what the seeds add to that by chance, and the variance of whole runs.
ROWS, CHANCE, RUNS = 0.02, 0.04, 1e-5


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

    The first is where Student's noncentral distribution has a fifth below the interval's half width. The second is the
    mean over what the measured spread may be of the true one, by the chi-square distribution.

    Args:
        variance: of a difference.
        measured: whether it was measured in the comparison itself.
    """
    spread, freedom = variance.total**0.5, max(1.0, min(variance.freedom, 1e6))
    told = float(nctdtrinc(freedom, 1 - POWER, student(together(shape.rows, CONFIDENCE), freedom))) * spread
    if spread == 0:
        return Power(shape.documents, shape.seeds, 0.0, 1.0, measured)
    measured_spread = spread * np.sqrt(chdtri(freedom, (np.arange(200) + 0.5) / 200) / freedom)
    width = student(together(shape.rows, EQUAL_CONFIDENCE), freedom) * measured_spread
    within = float(np.maximum(0.0, 2 * ndtr((shape.margin - width) / spread) - 1).mean())
    return Power(shape.documents, shape.seeds, told, within, measured)


def together(rows: int, confidence: float) -> float:
    """The quantile of the largest of several deviations that are compared with one reference: their correlation is
    then a half (Dunnett, JASA 1955).
    """
    points, weights = np.polynomial.hermite_e.hermegauss(64)
    low, high = 0.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        ends = (2**0.5 * sign * middle - points for sign in (1, -1))
        upper, lower = (ndtr(each) for each in ends)
        held = float(weights @ (upper - lower) ** max(1, rows)) / weights.sum()
        low, high = (middle, high) if held < confidence else (low, middle)
    return (low + high) / 2


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
