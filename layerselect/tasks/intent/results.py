"""The numbers of a finished run: the model beside its baselines, on every split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...metrics import ClassificationReport, classification_report
from ...metrics.classification import LabelRow
from ...utils.saved_schema import Anything, Both, Fields, Items, Mapped, Whole, fields_of
from ..run.baselines import MajorityBaseline, WordBaseline
from .dataset import EncodedSplit, Splits

MODEL = "trained model"
#: The row of what the model answers by itself, where the answers of the run are blends.
ALONE = "model alone"

_NUMBERS = Items(Items(Whole()))
_REPORT = fields_of(ClassificationReport, rows=Items(fields_of(LabelRow)), confusion=_NUMBERS)
#: A split in ``results.json``.
SPLIT = Fields({"examples": Whole(), "reports": Both(Fields({MODEL: Anything()}), Mapped(_REPORT))})


@dataclass(frozen=True)
class SplitResult:
    """One split: the reports of the baselines, of both parts of the answers where these are blends, and of the answers,
    in the order of the table.
    """

    split: str
    examples: int
    reports: Mapping[str, ClassificationReport]

    @property
    def model(self) -> ClassificationReport:
        return self.reports[MODEL]

    def as_dict(self) -> dict[str, Any]:
        return {"examples": self.examples, "reports": {name: report.as_dict() for name, report in self.reports.items()}}

    @classmethod
    def from_dict(cls, split: str, values: Mapping[str, Any]) -> SplitResult:
        """The result that :meth:`as_dict` wrote."""
        reports = {name: ClassificationReport.from_dict(report) for name, report in values["reports"].items()}
        return cls(split, values["examples"], reports)


def split_results(
    splits: Splits,
    scores: Mapping[str, Mapping[str, np.ndarray]],
    regressions: Sequence[WordBaseline],
    labels: Sequence[str],
    *,
    multi_label: bool,
) -> list[SplitResult]:
    """Evaluates the baselines and the run's own rows on every reported split.

    Args:
        scores: for each row of the run, in the order of the table, and each split of ``splits.report``, probabilities
            ``[n, C]`` in the order of the examples.
        regressions: the second baseline and, where the answers are blends, the regression that has a part in them.
    """
    baselines = [MajorityBaseline(splits.train.targets, len(labels), multi_label=multi_label), *regressions]
    return [
        _evaluate(split, baselines, {row: each[split.name] for row, each in scores.items()}, labels, multi_label)
        for split in splits.report
    ]


def _evaluate(
    split: EncodedSplit,
    baselines: Sequence[MajorityBaseline | WordBaseline],
    scores: Mapping[str, np.ndarray],
    labels: Sequence[str],
    multi_label: bool,
) -> SplitResult:
    reports: dict[str, ClassificationReport] = {}
    for baseline in baselines:
        baseline_scores, predicted = baseline.predict(split.described)
        reports[baseline.name] = classification_report(
            split.targets, baseline_scores, labels, multi_label=multi_label, predicted=predicted
        )
    for row, own in scores.items():
        reports[row] = classification_report(split.targets, own, labels, multi_label=multi_label)
    return SplitResult(split.name, len(split), reports)
