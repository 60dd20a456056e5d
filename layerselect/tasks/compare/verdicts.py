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

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...utils.paired import Effect, Paired, Quality, Variance, student

#: How often all intervals of a table hold the differences that they are for.
CONFIDENCE = 0.95
#: The same of the intervals by which rows are as good: each end is a test of its own at 5 %, and a difference is beyond
#: the margin on one side only.
EQUAL_CONFIDENCE = 0.9
#: Numbers that are drawn at a time.
_CHUNK = 4_000_000

BETTER, WORSE, AS_GOOD, UNDECIDED = "better", "worse", "as good", "undecided"


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
    parts = {name: Effect.of(row, quality) for name, row in rows.items()}
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


def _drawn(parts: Mapping[str, Effect], quality: Quality, samples: int, seed: int) -> dict[str, np.ndarray]:
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


def _sampled(part: Effect, quality: Quality, weights: np.ndarray, draws: np.ndarray) -> np.ndarray:
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
