"""The kept predictions of a comparison by folds, and differences between what can be made of them.

Differences are paired by document; where several runs are put together there is one of it, so the interval is over
documents alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from layerselect.tasks.compare.cells import Cells
from layerselect.tasks.compare.comparison import read_comparison
from layerselect.tasks.compare.counts import PARTS, Truth, in_parts
from layerselect.tasks.compare.methods import Variant
from layerselect.tasks.compare.state import saved_config
from layerselect.utils.paired import Effect, Paired, Quality

#: What is chosen from.
_WEIGHTS = tuple(float(each) for each in np.linspace(0.0, 1.0, 11))
#: Rows that train a head, or one layer more.
_LITTLE = ("head", "budget")
#: Of intervals of 95 %.
_QUANTILE = 1.959964

#: Of each fold, float64 ``[n, C]``.
Scores = list[np.ndarray]


class Between(NamedTuple):
    """A difference with its interval of 95 %."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


class Predictions:
    """The kept predictions of a comparison by folds.

    Args:
        folder: of the comparison.
    """

    def __init__(self, folder: Path) -> None:
        self._found = read_comparison(saved_config(folder))
        self._counts = self._found.config.kind.counts
        self.folds = sorted(fold for fold in self._found.examples if fold is not None)
        self._truth = [self._found.examples[fold][self._found.split] for fold in self.folds]
        self.labels = list(self._truth[0].names)
        known = [np.asarray(truth.labels).sum(axis=0) for truth in self._truth]
        self.shares = np.sum(known, axis=0) / np.sum(known)
        self._cells = Cells(self._found)

    def of_baseline(self, name: str) -> Scores:
        """The scores of a baseline."""
        return [self._found.baselines[fold][name][self._found.split] / PARTS for fold in self.folds]

    def of_rows(self, rows: Sequence[str], seeds: Sequence[int] | None = None) -> Scores:
        """The mean scores of these rows: of these seeds, or of all that are complete."""
        wanted = {name: self.seeds_of(name) if seeds is None else seeds for name in rows}
        by_fold: dict[int, list[np.ndarray]] = {fold: [] for fold in self.folds}
        for result in self._found.results:
            name, fold = result.run.variant.name, result.run.fold
            if result.reason is None and fold in by_fold and result.run.seed in wanted.get(name, ()):
                by_fold[fold].append(result.statistics[self._found.split] / PARTS)
        return [np.mean(by_fold[fold], axis=0) for fold in self.folds]

    def of_each_seed(self, row: str) -> list[Scores]:
        """The scores of a row's complete seeds, each by itself."""
        return [self.of_rows([row], [seed]) for seed in self.seeds_of(row)]

    @property
    def seeds(self) -> int:
        """How many seeds each row is to have."""
        return self._found.config.seeds

    def seeds_of(self, name: str) -> list[int]:
        """The seeds of a row that have all folds which any row has."""
        runs = [each.run for each in self._found.results if each.reason is None and each.run.variant.name == name]
        has = {seed: {run.fold for run in runs if run.seed == seed} for seed in range(self.seeds)}
        return [seed for seed, folds in has.items() if folds >= set(self.folds)]

    def learned_rows(self) -> list[str]:
        """The usual rows that have all seeds, without those that train next to nothing."""
        rows = [each for each in self._found.config.variants if each.method.name not in _LITTLE and not each.own]
        return [each.name for each in rows if len(self.seeds_of(each.name)) == self.seeds]

    def plain_rows(self) -> list[Variant]:
        """The usual rows that have a seed."""
        return [each for each in self.all_rows() if not each.own]

    def all_rows(self) -> list[Variant]:
        """The rows that have a seed."""
        return [each for each in self._found.config.variants if self.seeds_of(each.name)]

    def rows_of_sizes(self) -> list[Variant]:
        """The rows that have a seed and differ from the usual ones in how much they train on."""
        return [each for each in self.all_rows() if {*each.own} == {"train_size"}]

    def rows_with_words(self) -> list[Variant]:
        """The rows that begin with the scores of the words, or whose answers are blends, and that have a seed."""
        return [each for each in self.all_rows() if {*each.own} in ({"offset"}, {"blend"})]

    def quality(self, scores: Scores, folds: Sequence[int] | None = None) -> float:
        """The tested quality over some of the folds, by their places; without ``folds`` over all."""
        places = range(len(self.folds)) if folds is None else folds
        sums = sum(self._counted(scores[place], place).sum(axis=0) for place in places)
        return float(self._counts.quality(np.asarray(sums)))

    def chosen(self, make: Callable[[float], Scores]) -> Scores:
        """For each fold, the scores with the number that does best on the other folds."""
        made = {weight: make(weight) for weight in _WEIGHTS}
        found = []
        for place in range(len(self.folds)):
            others = [other for other in range(len(self.folds)) if other != place]
            best = max(_WEIGHTS, key=lambda weight: self.quality(made[weight], others))
            found.append(made[best][place])
        return found

    def beside(self, scores: Scores, reference: Scores) -> tuple[Between, Between]:
        """Macro-F1 and accuracy minus those of the reference, with intervals of 95 % over documents."""
        return self.mean_beside([scores], reference)

    def mean_beside(self, several: Sequence[Scores], reference: Scores) -> tuple[Between, Between]:
        """The same of the mean over several runs of one row, with intervals over documents and runs."""

        def parts(runs: Sequence[Scores]) -> dict[tuple[int, int | None], np.ndarray]:
            return {
                (seed, fold): in_parts(each)
                for seed, scores in enumerate(runs)
                for fold, each in zip(self.folds, scores, strict=True)
            }

        paired = self._cells.paired(parts(several), parts([reference] * len(several)))
        assert paired is not None
        return _difference(paired, self._counts.quality), _difference(paired, _accuracy)

    def facts(self, scores: Scores) -> tuple[float, float, float]:
        """Macro-F1, accuracy, and the F1 of the rarest label."""
        sums = sum(self._counted(each, place).sum(axis=0) for place, each in enumerate(scores))
        right, true, predicted = np.asarray(sums).reshape(3, -1)
        rare = int(np.argmin(true))
        f1 = float(2 * right[rare] / max(true[rare] + predicted[rare], 1e-12))
        return float(self._counts.quality(np.asarray(sums))), float(_accuracy(np.asarray(sums))), f1

    def pooled(self, scores: Scores) -> dict[str, float]:
        """The qualities over all folds."""
        return self._counts.pooled(np.concatenate([in_parts(each) for each in scores]), Truth.joined(self._truth))

    def _counted(self, scores: np.ndarray, place: int) -> np.ndarray:
        return self._counts.counts(in_parts(scores), self._truth[place])


def _accuracy(sums: np.ndarray) -> np.ndarray:
    right, true, _ = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    found: np.ndarray = right.sum(axis=-1) / np.maximum(true.sum(axis=-1), 1)
    return found


def _difference(paired: Paired, quality: Quality) -> Between:
    effect = Effect.of(paired, quality)
    width = effect.variance.width(_QUANTILE)
    return Between(effect.mean, effect.mean - width, effect.mean + width)
