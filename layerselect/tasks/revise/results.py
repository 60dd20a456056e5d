"""The numbers of a finished run: the trained model beside the copied source and, if asked, the untrained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...metrics import RevisionScores, example_scores, revision_scores
from ...metrics.revisions import SAVED_SCORES
from ...utils.saved_schema import Anything, Both, Fields, Mapped, Number, Whole
from ..text.completions import CompletionSplit

COPIED = "source copied"
UNTRAINED = "untrained model"
MODEL = "trained model"

#: A split in ``results.json``.
SPLIT = Fields(
    {
        "examples": Whole(),
        "scored": Whole(),
        "loss": Number(),
        "reports": Both(Fields({MODEL: Anything()}), Mapped(SAVED_SCORES)),
    }
)

#: The scores of a split in the order of tables: key, heading, digits.
SCORES = (
    ("sari", "SARI", 1),
    ("add", "add", 1),
    ("keep", "keep", 1),
    ("delete", "delete", 1),
    ("gleu", "GLEU", 3),
    ("update_rouge", "Update-ROUGE", 3),
    ("exact_match", "exact match", 3),
    ("copy_rate", "copies", 3),
)
#: Those of the edits; earlier releases did not count them.
EDIT_SCORES = (
    ("edits_made", "edits made", 3),
    ("edits_unasked", "edits in no reference", 3),
    ("invented", "invented words", 2),
)
#: The scores of which more is not better.
NOT_BETTER = ("copy_rate", "edits_unasked", "invented")


@dataclass(frozen=True)
class SplitResult:
    """One split.

    Attributes:
        examples: how many it has.
        scored: how many of them were revised and scored.
        loss: of the trained model, mean over the tokens of the scored examples' completions.
        reports: the scores of each row of the table, the trained model's last.
    """

    split: str
    examples: int
    scored: int
    loss: float
    reports: Mapping[str, RevisionScores]

    @property
    def model(self) -> RevisionScores:
        return self.reports[MODEL]

    def as_dict(self) -> dict[str, Any]:
        reports = {name: report.as_dict() for name, report in self.reports.items()}
        return {"examples": self.examples, "scored": self.scored, "loss": self.loss, "reports": reports}

    @classmethod
    def from_dict(cls, split: str, values: Mapping[str, Any]) -> SplitResult:
        """The result that :meth:`as_dict` wrote."""
        reports = {name: RevisionScores.from_dict(report) for name, report in values["reports"].items()}
        return cls(split, values["examples"], values["scored"], values["loss"], reports)


def split_result(
    split: CompletionSplit, examples: int, loss: float, predictions: Sequence[str], others: Mapping[str, Sequence[str]]
) -> SplitResult:
    """Scores the texts that were written for the examples of ``split``.

    Args:
        examples: how many the whole split has.
        others: what the untrained model wrote, by the row of the table, if it was asked.
    """
    sources = [row["source"] for row in split.rows]
    references = [row["references"] for row in split.rows]
    texts = {COPIED: sources, **others, MODEL: predictions}
    intentions = [row["intentions"] for row in split.rows]
    reports = {name: revision_scores(sources, list(written), references, intentions) for name, written in texts.items()}
    return SplitResult(split.name, examples, len(split), loss, reports)


def prediction_records(
    split: CompletionSplit, predictions: Sequence[str], others: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """The lines of ``predictions.jsonl``: ``id, split, intentions, source, references, prediction, scores``, and
    ``others``, what the untrained model wrote, by the row of the table, if it was asked.

    Args:
        others: what the untrained model wrote, as for :func:`split_result`.
    """
    records = []
    for number, (row, written) in enumerate(zip(split.rows, predictions, strict=True)):
        scores = example_scores(row["source"], written, row["references"])
        record = {
            "id": row["id"],
            "split": split.name,
            "intentions": row["intentions"],
            "source": row["source"],
            "references": row["references"],
            "prediction": written,
            "scores": {name: value if value is None else round(value, 4) for name, value in scores.items()},
        }
        if others:
            record["others"] = {name: texts[number] for name, texts in others.items()}
        records.append(record)
    return records
