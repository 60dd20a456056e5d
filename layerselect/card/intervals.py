"""How sure the figures are: intervals over batches, and whether the layers would keep their order on other batches."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

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
        middle, reach = self.fresh_resnorm(), _student(0.5 + level / 2, batches - 1) * spread
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
        return float(_rank_correlations(np.vstack([figures, drawn])).mean())


def spearman(one: ArrayLike, other: ArrayLike) -> float:
    """Rank correlation; ties get their mean rank. NaN where one side is constant."""
    return float(_rank_correlations(np.stack([np.asarray(one, dtype=float), np.asarray(other, dtype=float)]))[0])


def _rank_correlations(rows: np.ndarray) -> np.ndarray:
    """The rank correlation of the first row with each of the others, float64 [n - 1]."""
    from scipy.stats import ConstantInputWarning, spearmanr  # of the extra "card"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)  # the answer, NaN, says it
        found = spearmanr(rows, axis=1).statistic
    return np.atleast_1d(found) if np.ndim(found) == 0 else found[0, 1:]


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


def _student(p: float, freedom: int) -> float:
    """A quantile of Student's distribution."""
    from scipy.stats import t  # of the extra "card"

    return float(t.ppf(p, freedom))


def _ratio(removed: np.ndarray, square: np.ndarray, units: np.ndarray | float) -> np.ndarray:
    known = square > 0
    return np.where(known, removed / np.sqrt(np.where(known, square, 1.0) * units), 0.0)
