"""Quality of a classifier on one split: macro-F1, macro AUPRC, accuracy, and the table behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support

from ..errors import LayerSelectError


@dataclass(frozen=True)
class LabelRow:
    """One label of the table. ``auprc`` is ``None`` where the split has no example of the label."""

    label: str
    precision: float
    recall: float
    f1: float
    auprc: float | None
    support: int


@dataclass(frozen=True)
class ClassificationReport:
    """Quality on one split.

    Attributes:
        macro_f1, macro_auprc: unweighted means over the labels that occur in the split, in [0, 1]. A label
            the split does not hold has no recall and no precision-recall curve, so it is left out.
        accuracy: share of examples whose prediction is right; with several labels, right as a whole set.
        rows: one per label, in label order.
        confusion: single-label: ``[true][predicted]`` counts, ``C x C``. Multi-label: for each label
            ``[true negative, false positive, false negative, true positive]``, ``C x 4``.
    """

    macro_f1: float
    macro_auprc: float
    accuracy: float
    rows: list[LabelRow]
    confusion: list[list[int]]
    multi_label: bool

    def summary(self) -> dict[str, float]:
        """The three numbers of a ``metrics.jsonl`` line."""
        return {"macro_f1": self.macro_f1, "macro_auprc": self.macro_auprc, "accuracy": self.accuracy}

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClassificationReport:
        """The report that :meth:`as_dict` wrote."""
        return cls(**{**values, "rows": [LabelRow(**row) for row in values["rows"]]})


def classification_report(
    targets: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[str],
    *,
    multi_label: bool,
    predicted: np.ndarray | None = None,
) -> ClassificationReport:
    """Compares scores with targets.

    Args:
        targets: integer ``[n]`` (class numbers) or, with several labels, 0/1 ``[n, C]``.
        scores: float ``[n, C]``, higher means more likely; probabilities, where ``predicted`` is not given.
        labels: the ``C`` names.
        predicted: in the form of ``targets``; by default the highest score, or every score of at least 0.5.

    Raises:
        LayerSelectError: no example, shapes that do not fit, or a score that is not a number.
    """
    scores = np.asarray(scores, dtype=np.float64)
    targets = np.asarray(targets)
    count = len(labels)
    if scores.ndim != 2 or scores.shape[1] != count or scores.shape[0] != targets.shape[0]:
        raise LayerSelectError(
            f"scores of shape {scores.shape} do not fit {targets.shape[0]} examples and {count} labels"
        )
    if not scores.shape[0]:
        raise LayerSelectError("there is no example to evaluate: the split is empty")
    if not np.isfinite(scores).all():
        row = int(np.argwhere(~np.isfinite(scores))[0][0])
        raise LayerSelectError(
            f"the model's score for example {row} is not a finite number: the training has diverged, lower the "
            "learning rate"
        )
    if predicted is None:
        predicted = (scores >= 0.5).astype(int) if multi_label else scores.argmax(axis=1)

    truth = targets.astype(int) if multi_label else (targets[:, None] == np.arange(count)).astype(int)
    support = truth.sum(axis=0)
    precision, recall, f1, _ = precision_recall_fscore_support(
        targets, predicted, labels=list(range(count)), average=None, zero_division=0.0
    )
    auprc = [float(average_precision_score(truth[:, c], scores[:, c])) if support[c] else None for c in range(count)]
    rows = [
        LabelRow(labels[c], float(precision[c]), float(recall[c]), float(f1[c]), auprc[c], int(support[c]))
        for c in range(count)
    ]
    occurring = [row for row in rows if row.support]
    right = (predicted == targets).all(axis=1) if multi_label else predicted == targets
    return ClassificationReport(
        macro_f1=float(np.mean([row.f1 for row in occurring])) if occurring else 0.0,
        macro_auprc=float(np.mean([row.auprc for row in occurring])) if occurring else 0.0,
        accuracy=float(np.mean(right)),
        rows=rows,
        confusion=_per_label_counts(truth, predicted) if multi_label else _matrix(targets, predicted, count),
        multi_label=multi_label,
    )


def _matrix(targets: np.ndarray, predicted: np.ndarray, count: int) -> list[list[int]]:
    matrix: list[list[int]] = confusion_matrix(targets, predicted, labels=list(range(count))).tolist()
    return matrix


def _per_label_counts(truth: np.ndarray, predicted: np.ndarray) -> list[list[int]]:
    table = []
    for true, guess in zip(truth.T.astype(bool), predicted.T.astype(bool), strict=True):
        table.append(
            [
                int((~true & ~guess).sum()),
                int((~true & guess).sum()),
                int((true & ~guess).sum()),
                int((true & guess).sum()),
            ]
        )
    return table
