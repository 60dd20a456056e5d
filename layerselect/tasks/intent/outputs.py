"""What a prediction is on paper: the chosen labels and the scores of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def prediction_records(
    split: str, rows: Sequence[Mapping[str, Any]], scores: np.ndarray, labels: Sequence[str], *, multi_label: bool
) -> list[dict[str, Any]]:
    """The lines of ``predictions.jsonl``: ``id, split, labels`` (the truth)``, predicted, scores``."""
    return [
        {
            "id": row["id"],
            "split": split,
            "labels": list(row["intentions"]),
            "predicted": chosen_labels(score, labels, multi_label=multi_label),
            "scores": score_table(score, labels),
        }
        for row, score in zip(rows, scores, strict=True)
    ]


def chosen_labels(score: np.ndarray, labels: Sequence[str], *, multi_label: bool) -> list[str]:
    """The label with the highest score, or every label that scores at least 0.5."""
    if multi_label:
        return [label for label, value in zip(labels, score, strict=True) if value >= 0.5]
    return [labels[int(score.argmax())]]


def score_table(score: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """Each label's score, to six digits."""
    return {label: round(float(value), 6) for label, value in zip(labels, score, strict=True)}
