"""Metrics of the tasks. Generation metrics join the classification ones with the revision task."""

from .classification import ClassificationReport, LabelRow, classification_report

__all__ = ["ClassificationReport", "LabelRow", "classification_report"]
