"""A comparison as its folder holds it: what is kept of its runs, which is all that tables are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import LayerSelectError
from .config import CompareConfig
from .counts import Truth
from .kept import TEST, KeptRun, KeptRuns
from .methods import Run, Variant

#: A seed and a fold.
Part = tuple[int, int | None]

#: Why a run that nobody trained yet is not in the table.
NOT_FINISHED = "not finished"


@dataclass(frozen=True)
class Comparison:
    """All runs of a comparison, in the order of its rows, seeds and folds within.

    Attributes:
        examples: of each fold (``None``: there are no folds), by split.
        baselines: the statistics of each fold's baselines, by their names and the split.
    """

    config: CompareConfig
    folder: Path
    results: list[KeptRun]
    examples: Mapping[int | None, Mapping[str, Truth]]
    baselines: Mapping[int | None, Mapping[str, Mapping[str, np.ndarray]]]

    @property
    def failed(self) -> list[KeptRun]:
        return [result for result in self.results if result.reason not in (None, NOT_FINISHED)]

    def finished(self, variant: Variant) -> dict[Part, KeptRun]:
        """The runs of a row that were evaluated on the reported split."""
        return {
            (result.run.seed, result.run.fold): result
            for result in self.results
            if result.run.variant == variant and result.reason is None and self.split in result.statistics
        }

    @property
    def split(self) -> str:
        """The reported split."""
        names = next((list(splits) for splits in self.examples.values()), [])
        if self.config.split is not None:
            if names and self.config.split not in names:
                raise LayerSelectError(f"--split {self.config.split}: the corpus has {', '.join(names)}")
            return self.config.split
        return next((name for name in (TEST, "validation", "holdout") if name in names), TEST)


def read_comparison(config: CompareConfig, reasons: Mapping[Run, str] | None = None) -> Comparison:
    """The comparison that is made of what is kept in its folder; no corpus and no model is read.

    Args:
        reasons: why runs failed that are not there; other missing runs are not finished.

    Raises:
        LayerSelectError: the examples or the baselines of a fold cannot be read. A run that cannot is one that failed.
    """
    reasons, folder = reasons or {}, Path(config.out)
    kept = KeptRuns(folder, config.kind)
    results = []
    for run in sorted(config.runs(), key=lambda run: config.variants.index(run.variant)):
        if run in reasons or not kept.has(run):
            results.append(KeptRun(run, reason=reasons.get(run, NOT_FINISHED)))
        else:
            results.append(kept.read(run))
    folds = dict.fromkeys(result.run.fold for result in results if result.reason is None)
    examples = {fold: kept.examples(fold) for fold in folds}
    first = next(iter(examples.values()), {})
    for fold, splits in examples.items():
        if set(splits) != set(first) or any(list(splits[name].names) != list(first[name].names) for name in splits):
            raise LayerSelectError(f"the examples of fold {fold} in {str(kept.folder)!r} have other splits or labels")
    sizes = list(dict.fromkeys(each.train_size for each in config.variants if each.train_size))
    return Comparison(config, folder, results, examples, {fold: kept.baselines(fold, sizes) for fold in folds})
