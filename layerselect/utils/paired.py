"""The difference of two trainings that were tested on the same documents, and how far it can be trusted.

Two things are random in it: which documents the corpus holds, and what else a training drew. The variance is that of
documents, plus that of whole runs where seeds differ by more than chance on single examples explains (two-way clusters:
Cameron, Gelbach and Miller, 2011).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

#: From summed counts float64 ``[..., m]`` to the quality ``[...]``.
Quality = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Paired:
    """The counts of a row and of the reference, of the same runs and documents.

    Attributes:
        ours, theirs: float64 ``[S, D, m]``: of each seed and document, the counts whose sums make the quality.
        documents: int64 ``[D]``, the number of each document among those of the whole comparison.
        folds: int64 ``[D]``, the fold in which each document is tested.
    """

    ours: np.ndarray
    theirs: np.ndarray
    documents: np.ndarray
    folds: np.ndarray

    @property
    def seeds(self) -> int:
        return len(self.ours)


@dataclass(frozen=True)
class Variance:
    """Where the variance of a difference comes from.

    Attributes:
        documents: the corpus holds these documents and not others; ``chance`` is in it.
        chance: the seeds answer single documents differently.
        between: the runs of a fold differ by as much, all in all; what is more than ``chance`` is due to whole runs.
        count: documents.
        seeds: runs of each fold.
        folds: parts of the corpus that were tested, each by runs of its own.
    """

    documents: float
    chance: float
    between: float
    count: int
    seeds: int
    folds: int

    @property
    def runs(self) -> float:
        """A whole run is better or worse than another one of the same method."""
        return max(0.0, self.between - self.chance)

    @property
    def total(self) -> float:
        return self.documents + self.runs

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom of the total.

        Few runs may differ less than chance alone makes them differ. That is chance, too, and no reason for trust: the
        runs are then taken to differ by what the documents show.
        """
        rough = self.documents**2 / max(1, self.count - 1)
        if self.seeds > 1:
            between = max(self.between, min(self.chance, self.documents))
            rough += between**2 / (self.folds * (self.seeds - 1))
        return self.total**2 / rough if rough > 0 else float("inf")

    def width(self, quantile: float) -> float:
        """Half the width of an interval.

        Args:
            quantile: of the normal distribution, in whose place Student's is taken.
        """
        return student(quantile, self.freedom) * float(self.total**0.5)

    def with_more(self, count: int, seeds: int, folds: int) -> Variance:
        """What it would be on as many documents with as many seeds, by folds as large as these."""
        documents, each = self.count / count, self.seeds / seeds
        chance, between = (part * documents * each for part in (self.chance, self.between))
        own = max(0.0, self.documents - self.chance) * documents
        return Variance(own + chance, chance, between, count, seeds, folds)


@dataclass(frozen=True)
class Effect:
    """The difference of a row from the reference, and where it comes from.

    Attributes:
        row: what it was computed of.
        mean: over the seeds, of the quality of all documents.
        effects: float64 ``[S, F]``, what each seed adds to the difference in each fold, shrunk.
        variance: of the mean.
    """

    row: Paired
    mean: float
    effects: np.ndarray
    variance: Variance

    @classmethod
    def of(cls, row: Paired, quality: Quality) -> Effect:
        if row.ours.shape != row.theirs.shape or not len(row.ours):
            raise ValueError(f"counts of shapes {row.ours.shape} and {row.theirs.shape} cannot be paired")
        mean = float(np.mean(quality(row.ours.sum(axis=1)) - quality(row.theirs.sum(axis=1))))
        # How much each document of each seed moves the difference, as far as that is linear.
        moved = row.ours @ _slope(row.ours, quality) - row.theirs @ _slope(row.theirs, quality)
        _, folds = np.unique(row.folds, return_inverse=True)
        totals = moved @ np.eye(folds.max() + 1)[folds]
        effects = totals - totals.mean(axis=0)
        seeds, count = moved.shape
        documents = float(((moved.mean(axis=0) - moved.mean()) ** 2).sum())
        between = float(effects.var(axis=0, ddof=1).sum()) / seeds if seeds > 1 else 0.0
        chance = float(moved.var(axis=0, ddof=1).sum()) / seeds if seeds > 1 else 0.0
        variance = Variance(documents, chance, between, count, seeds, totals.shape[1])
        shrunk = effects * np.sqrt(variance.runs / between) if between > 0 else effects
        return cls(row, mean, shrunk, variance)


def _slope(counts: np.ndarray, quality: Quality) -> np.ndarray:
    """float64 ``[m]``: how the quality changes with each of the summed counts ``[S, D, m]``, at their mean over the
    seeds.
    """
    sums = counts.sum(axis=1).mean(axis=0)
    steps = np.diag(np.maximum(1e-3 * np.abs(sums), 1e-2))
    slope: np.ndarray = (quality(sums + steps) - quality(sums - steps)) / (2 * np.diag(steps))
    return slope


def student(quantile: float, freedom: float) -> float:
    """The quantile of Student's distribution that is as rare as ``quantile`` is of the normal one."""
    from scipy.special import stdtrit  # of the extra "card"

    if freedom > 1e6 or quantile > 8:
        return quantile
    return float(stdtrit(max(1.0, freedom), NormalDist().cdf(quantile)))


def together(rows: int, confidence: float) -> float:
    """The quantile of the largest of several deviations that are compared with one reference: their correlation is
    then a half (Dunnett, JASA 1955).
    """
    from scipy.special import ndtr  # of the extra "card"

    points, weights = np.polynomial.hermite_e.hermegauss(64)
    low, high = 0.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        ends = (2**0.5 * sign * middle - points for sign in (1, -1))
        upper, lower = (ndtr(each) for each in ends)
        held = float(weights @ (upper - lower) ** max(1, rows)) / weights.sum()
        low, high = (middle, high) if held < confidence else (low, middle)
    return (low + high) / 2
