"""What a comparison may conclude: an interval for each difference, over documents and seeds, and the verdict it allows.

A row of the table has runs for several seeds, each tested on documents. Two things are random in its difference from
the reference: which documents the corpus holds, and what else a training drew. Both are taken into account:

* The bootstrap draws documents with replacement, the same ones for all rows, and computes the qualities anew.
* In every fold it draws the seeds by giving what each adds to the mean a normal weight, of the variance of a mean of so
  few (a multiplier bootstrap; drawing two seeds with replacement would halve their spread). Two seeds also differ
  because each answers single examples by chance, which the documents have shown already: what they add is shrunk by
  that part (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8), as the variance of
  two-way clusters is documents plus seeds minus both (Cameron, Gelbach and Miller, 2011).

The intervals of all rows hold together with 95 %: their width is the quantile of the largest studentised deviation of
any row in the same sample (Westfall and Young, 1993), which makes use of what the rows have in common. As the spread of
seeds is known from few of them, the quantile is Student's with Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import stdtrit

#: How often all intervals of a table hold the differences that they are for.
CONFIDENCE = 0.95
#: The same of the intervals by which rows are as good: each end is a test of its own at 5 %, and a difference is beyond
#: the margin on one side only.
EQUAL_CONFIDENCE = 0.9
#: Numbers that are drawn at a time.
_CHUNK = 4_000_000

#: From summed counts float64 ``[..., m]`` to the quality ``[...]``.
Quality = Callable[[np.ndarray], np.ndarray]

BETTER, WORSE, AS_GOOD, UNDECIDED = "better", "worse", "as good", "undecided"


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

    def with_more(self, count: int, seeds: int, folds: int) -> Variance:
        """What it would be on as many documents with as many seeds, by folds as large as these."""
        documents, each = self.count / count, self.seeds / seeds
        chance, between = (part * documents * each for part in (self.chance, self.between))
        own = max(0.0, self.documents - self.chance) * documents
        return Variance(own + chance, chance, between, count, seeds, folds)


@dataclass(frozen=True)
class Difference:
    """The quality of one row minus that of the reference.

    Attributes:
        mean: over the common seeds, on all examples.
        low, high: they hold together with those of the table's other rows with 95 %.
        equal_low, equal_high: the same with 90 %, for two one-sided tests of equality (Schuirmann, 1987).
        seeds: how many runs of each fold were paired.
        documents: on how many it was measured.
        variance: where the width comes from.
    """

    mean: float
    low: float
    high: float
    equal_low: float
    equal_high: float
    seeds: int
    documents: int
    variance: Variance

    def verdict(self, margin: float) -> str:
        """What the intervals allow to say: ``as good`` where that of 90 % lies within the margin on both sides of 0,
        else ``better`` or ``worse`` where that of 95 % lies on one side, else ``undecided``.
        """
        if -margin <= self.equal_low and self.equal_high <= margin:
            return AS_GOOD
        if self.low > 0 or self.high < 0:
            return BETTER if self.low > 0 else WORSE
        return UNDECIDED


def differences(
    rows: Mapping[str, Paired], quality: Quality, *, samples: int = 2000, seed: int = 0
) -> dict[str, Difference]:
    """The difference of each row from the reference, with intervals that hold together.

    Args:
        rows: by their names.
        quality: of summed counts.
        samples: of the bootstrap.
        seed: of its generator.

    Raises:
        ValueError: the counts of a row and of the reference are not of the same runs.
    """
    parts = {name: _Part.of(row, quality) for name, row in rows.items()}
    if not parts:
        return {}
    drawn = _drawn(parts, quality, samples, seed)
    spread = {name: float(values.std()) for name, values in drawn.items()}
    largest = np.zeros(samples)
    for name, values in drawn.items():
        if spread[name] > 0:
            largest = np.maximum(largest, np.abs(values - values.mean()) / spread[name])
    quantiles = np.quantile(largest, (CONFIDENCE, EQUAL_CONFIDENCE)).tolist()
    found = {}
    for name, part in parts.items():
        width, equal_width = (student(each, part.variance.freedom) * spread[name] for each in quantiles)
        mean, row = part.mean, rows[name]
        found[name] = Difference(
            mean,
            mean - width,
            mean + width,
            mean - equal_width,
            mean + equal_width,
            row.seeds,
            len(row.documents),
            part.variance,
        )
    return found


def student(quantile: float, freedom: float) -> float:
    """The quantile of Student's distribution that is as rare as ``quantile`` is of the normal one."""
    if freedom > 1e6 or quantile > 8:
        return quantile
    return float(stdtrit(max(1.0, freedom), NormalDist().cdf(quantile)))


@dataclass(frozen=True)
class _Part:
    """What is computed once of a row.

    Attributes:
        effects: float64 ``[S, F]``, what each seed adds to the difference in each fold, shrunk.
    """

    row: Paired
    mean: float
    effects: np.ndarray
    variance: Variance

    @classmethod
    def of(cls, row: Paired, quality: Quality) -> _Part:
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


def _drawn(parts: Mapping[str, _Part], quality: Quality, samples: int, seed: int) -> dict[str, np.ndarray]:
    """The differences of each row in each sample of the bootstrap, float64 ``[samples]``."""
    generator = np.random.default_rng(seed)
    count = 1 + max(int(part.row.documents.max()) for part in parts.values())
    folds = 1 + max(int(part.row.folds.max()) for part in parts.values())
    most = max(part.row.seeds for part in parts.values())
    found: dict[str, list[np.ndarray]] = {name: [] for name in parts}
    size = max(1, _CHUNK // count)
    for start in range(0, samples, size):
        several = min(size, samples - start)
        weights = generator.multinomial(count, np.full(count, 1.0 / count), size=several).astype(np.float64)
        draws = generator.standard_normal((several, most, folds))
        for name, part in parts.items():
            found[name].append(_sampled(part, quality, weights, draws))
    return {name: np.concatenate(values) for name, values in found.items()}


def _sampled(part: _Part, quality: Quality, weights: np.ndarray, draws: np.ndarray) -> np.ndarray:
    row = part.row
    own = weights[:, row.documents]
    values: np.ndarray = np.mean(
        [quality(own @ ours) - quality(own @ theirs) for ours, theirs in zip(row.ours, row.theirs, strict=True)], axis=0
    )
    if row.seeds > 1:
        places = np.unique(row.folds)
        scale = (row.seeds * (row.seeds - 1)) ** -0.5  # what makes it the variance of the mean over the seeds
        values = values + scale * np.einsum("bsf,sf->b", draws[:, : row.seeds, places], part.effects)
    return values
