"""Metrics of the tasks: of classifiers, and of revised texts."""

from .classification import ClassificationReport, LabelRow, classification_report
from .edits import EditCounts, EditReport, edit_counts, edit_reports
from .generation import (
    SariScore,
    copy_rate,
    exact_match,
    gleu,
    sari,
    sari_counts,
    sari_parts,
    sentence_gleu,
    update_rouge,
)
from .revisions import RevisionScores, example_scores, revision_scores

__all__ = [
    "ClassificationReport",
    "EditCounts",
    "EditReport",
    "LabelRow",
    "RevisionScores",
    "SariScore",
    "classification_report",
    "copy_rate",
    "edit_counts",
    "edit_reports",
    "exact_match",
    "example_scores",
    "gleu",
    "revision_scores",
    "sari",
    "sari_counts",
    "sari_parts",
    "sentence_gleu",
    "update_rouge",
]
