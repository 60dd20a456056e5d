"""How sure the figures are: intervals over batches, and whether the layers would keep their order on other batches."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

_RESAMPLES = 400


@dataclass(frozen=True)
class Contributions:
    """What each batch adds to the figures of each layer.

    Attributes:
        removed: float64 [batches, L], a: the loss removed to first order, summed over the batch.
        square: float64 [batches, L], q: the squared movements, summed likewise.
        units: float64 [batches], the number of losses.
    """

    removed: np.ndarray
    square: np.ndarray
    units: np.ndarray

    def fresh_resnorm(self) -> np.ndarray:
        """The ratio a / sqrt(q) of the means over all losses, float64 [L]; negative where the change makes the loss
        larger.

        On the batches that the change was fitted to, without a ridge, a = q = resnorm^2, and so this is resnorm.
        """
        return _ratio(self.removed.sum(axis=0), self.square.sum(axis=0), self.units.sum())

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray] | None:
        """Lower and upper end by the jackknife over batches, with Student's quantile; ``None`` below two batches."""
        batches = len(self.units)
        if batches < 2:
            return None
        without = _ratio(
            self.removed.sum(axis=0) - self.removed,
            self.square.sum(axis=0) - self.square,
            (self.units.sum() - self.units)[:, None],
        )
        spread = np.sqrt((batches - 1) / batches * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
        middle, reach = self.fresh_resnorm(), student_quantile(0.5 + level / 2, batches - 1) * spread
        return middle - reach, middle + reach

    def stability(self, seed: int = 0) -> float | None:
        """The mean rank correlation of the layers' figures with those on batches drawn anew, with replacement; ``None``
        below two batches or two layers.
        """
        batches, layers = self.removed.shape
        if batches < 2 or layers < 2:
            return None
        generator, figures = np.random.default_rng(seed), self.fresh_resnorm()
        weights = generator.multinomial(batches, np.full(batches, 1 / batches), size=_RESAMPLES).astype(float)
        drawn = _ratio(weights @ self.removed, weights @ self.square, (weights @ self.units)[:, None])
        return float(np.mean([spearman(figures, row) for row in drawn]))


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation; ties get their mean rank. NaN where one side is constant."""
    first, second = _ranks(np.asarray(one)), _ranks(np.asarray(other))
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / scale) if scale > 0 else float("nan")


def spearman_interval(correlation: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """An interval for the rank correlation of ``count`` pairs that are taken for a sample of pairs.

    Fisher's transformation with the variance (1 + r^2 / 2) / (count - 3) (Bonett and Wright, Psychometrika 65, 2000).
    Equal orders count as half a step from that, a step being what exchanging two neighbours makes, so that six layers
    in the same order are no proof. All of [-1, 1] below four pairs, where it knows nothing; NaN if the correlation is.
    """
    if np.isnan(correlation):
        return float("nan"), float("nan")
    if count < 4:
        return -1.0, 1.0
    most = 1.0 - 6.0 / (count * (count**2 - 1))
    r = min(max(correlation, -most), most)
    reach = NormalDist().inv_cdf(0.5 + level / 2) * np.sqrt((1 + r * r / 2) / (count - 3))
    return float(np.tanh(np.arctanh(r) - reach)), float(np.tanh(np.arctanh(r) + reach))


def student_quantile(p: float, freedom: int) -> float:
    """A quantile of Student's distribution, by Cornish and Fisher's expansion (Abramowitz and Stegun, 26.7.5), exact
    for 1 and 2 degrees of freedom; off by less than 1 % from 3 on for p up to 0.975.
    """
    if freedom == 1:
        return float(np.tan(np.pi * (p - 0.5)))
    if freedom == 2:
        return float((2 * p - 1) / np.sqrt(2 * p * (1 - p)))
    z, n = NormalDist().inv_cdf(p), float(freedom)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / n ** (power + 1) for power, term in enumerate(terms))


def _ratio(removed: np.ndarray, square: np.ndarray, units: np.ndarray | float) -> np.ndarray:
    known = square > 0
    return np.where(known, removed / np.sqrt(np.where(known, square, 1.0) * units), 0.0)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]
