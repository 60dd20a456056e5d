"""What the runs of a comparison counted in each document, and which of them two rows have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ...utils.paired import Paired
from .comparison import Comparison, Part
from .kept import KeptRun


def complete(parts: Iterable[Part]) -> list[Part]:
    """Those of the seeds that have all the folds which the seed with most folds has."""
    by_seed = _folds_of(parts)
    folds = max(by_seed.values(), key=len, default=set())
    return _rectangle(by_seed, folds)


def common(parts: Iterable[Part]) -> list[Part]:
    """The parts by which two rows are compared: two seeds at least, if some folds have them, and then the most."""
    by_seed = _folds_of(parts)
    chosen: list[Part] = []
    for folds in [one & other for one in by_seed.values() for other in by_seed.values()]:
        found = _rectangle(by_seed, folds)
        if _worth(found) > _worth(chosen):
            chosen = found
    return chosen


def _folds_of(parts: Iterable[Part]) -> dict[int, set[int | None]]:
    by_seed: dict[int, set[int | None]] = {}
    for seed, fold in parts:
        by_seed.setdefault(seed, set()).add(fold)
    return by_seed


def _rectangle(by_seed: Mapping[int, set[int | None]], folds: set[int | None]) -> list[Part]:
    """These folds of all seeds that have them."""
    order = sorted(folds, key=lambda fold: fold or 0)
    return [(seed, fold) for seed, own in sorted(by_seed.items()) if own >= folds for fold in order]


def _worth(parts: list[Part]) -> tuple[bool, int]:
    return len({seed for seed, _ in parts}) > 1, len(parts)


class Cells:
    """What the runs of a comparison counted in each document."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison, self._split = comparison, comparison.split
        self._numbers: dict[str, int] = {}
        for splits in comparison.examples.values():
            for document in splits[self._split].documents:
                self._numbers.setdefault(document, len(self._numbers))

    def of_runs(self, runs: Mapping[Part, KeptRun]) -> dict[Part, np.ndarray]:
        return {part: run.statistics[self._split] for part, run in runs.items()}

    def of_baseline(self, name: str, like: Iterable[Part]) -> dict[Part, np.ndarray]:
        """A baseline looks at no seed: it is the same in all of them."""
        kept = {part: self._comparison.baselines[part[1]].get(name, {}) for part in like}
        return {part: splits[self._split] for part, splits in kept.items() if self._split in splits}

    def paired(self, ours: Mapping[Part, np.ndarray], theirs: Mapping[Part, np.ndarray]) -> Paired | None:
        """The counts of two rows in the parts that both have."""
        parts = common(part for part in ours if part in theirs)
        if not parts:
            return None
        seeds, folds = (list(dict.fromkeys(each)) for each in zip(*parts, strict=True))
        ours_counted, theirs_counted = (
            np.stack([np.concatenate([self._counted(row[seed, fold], fold) for fold in folds]) for seed in seeds])
            for row in (ours, theirs)
        )
        each = [np.unique(self._documents(fold)) for fold in folds]
        numbers = [np.full(len(documents), (fold or 1) - 1) for fold, documents in zip(folds, each, strict=True)]
        return Paired(ours_counted, theirs_counted, np.concatenate(each), np.concatenate(numbers))

    def _documents(self, fold: int | None) -> np.ndarray:
        """int64 [n]: the number of each example's document."""
        truth = self._comparison.examples[fold][self._split]
        return np.array([self._numbers[document] for document in truth.documents])

    def _counted(self, rows: np.ndarray, fold: int | None) -> np.ndarray:
        """float64 [documents of the fold, m]."""
        truth = self._comparison.examples[fold][self._split]
        counts = self._comparison.config.kind.counts.counts(rows, truth)
        documents, place = np.unique(self._documents(fold), return_inverse=True)
        summed = np.zeros((len(documents), counts.shape[1]))
        np.add.at(summed, place, counts)
        return summed
