"""All scores of revised texts together: of a split, and of one example."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from ..utils.saved_schema import Fields, Maybe, fields_of
from .edits import SAVED, SAVED_BY_INTENTION, EditReport, edit_reports
from .generation import copy_rate, exact_match, gleu, sari, sentence_gleu, update_rouge
from .texts import checked_texts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RevisionScores:
    """Quality of revised texts on one split.

    Attributes:
        sari, add, keep, delete: SARI and its parts over the corpus, in [0, 100].
        gleu: over the corpus, in [0, 1].
        update_rouge: ROUGE-1 of the new sentences, in [0, 1]; ``None`` where the package rouge-score is not installed.
        exact_match, copy_rate: shares of the examples, in [0, 1].
        examples: how many there are.
        edits_made: the share of the references' edits that were made, in [0, 1]; ``None`` where they have none.
        edits_unasked: the share of the edits made that are in no reference, in [0, 1]; ``None`` where none was made.
        invented: words in a revision that stand in neither its source nor a reference, the mean over the examples.
        edits: what these three are made of, by kind of edit; ``None`` in what earlier releases wrote.
        by_intention: the same of the examples for each intention.
    """

    sari: float
    add: float
    keep: float
    delete: float
    gleu: float
    update_rouge: float | None
    exact_match: float
    copy_rate: float
    examples: int
    edits_made: float | None = None
    edits_unasked: float | None = None
    invented: float | None = None
    edits: EditReport | None = None
    by_intention: Mapping[str, EditReport] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RevisionScores:
        """The scores that :meth:`as_dict` wrote."""
        edits = values.get("edits")
        by_intention = {name: EditReport.from_dict(each) for name, each in values.get("by_intention", {}).items()}
        return cls(**{**values, "edits": EditReport.from_dict(edits) if edits else None, "by_intention": by_intention})


#: The scores that earlier releases did not write.
LATER = ("edits_made", "edits_unasked", "invented", "edits", "by_intention")
_EVERY = fields_of(RevisionScores, edits=Maybe(SAVED), by_intention=SAVED_BY_INTENTION).needed
#: :class:`RevisionScores` as they are saved.
SAVED_SCORES = Fields(
    {name: kind for name, kind in _EVERY.items() if name not in LATER},
    optional={name: _EVERY[name] for name in LATER},
    closed=True,
)


def revision_scores(
    sources: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    intentions: Sequence[Sequence[str]] | None = None,
) -> RevisionScores:
    """Scores the revisions of a split.

    An order of n-grams that no text has enters SARI and its parts as 0, and makes GLEU 0: texts of fewer than four
    words cannot score in full. So does an empty prediction: nothing is added or kept, GLEU is 0, and its source's words
    count as deleted. Of an empty source everything is new. Where source, prediction and reference are one text, nothing
    is to add or to delete: keep is 100, SARI 33.3, GLEU and the others 1.

    Args:
        sources, predictions: ``n`` texts.
        references: for each source, one or more texts.
        intentions: for each source, what its revision is for (:func:`~layerselect.metrics.edit_reports`).

    Raises:
        LayerSelectError: there is no example, the lengths differ, or a source has no reference.
    """
    predictions, references, sources = checked_texts(predictions, references, sources)
    words = sari(sources, predictions, references)
    edits, by_intention = edit_reports(sources, predictions, references, intentions)
    return RevisionScores(
        sari=words.sari,
        add=words.add,
        keep=words.keep,
        delete=words.delete,
        gleu=gleu(sources, predictions, references),
        update_rouge=_update_rouge(sources, predictions, references),
        exact_match=exact_match(predictions, references),
        copy_rate=copy_rate(sources, predictions),
        examples=len(predictions),
        edits_made=edits.edits.share_done,
        edits_unasked=edits.edits.share_unasked,
        invented=edits.invented_each,
        edits=edits,
        by_intention=by_intention,
    )


def example_scores(source: str, prediction: str, references: Sequence[str]) -> dict[str, float | None]:
    """Scores one revision, for sorting examples; their mean is not the score of the corpus.

    ``sari``, ``add``, ``keep`` and ``delete`` as :func:`revision_scores` gives them for a corpus of this example alone,
    in [0, 100]. ``sentence_gleu`` and ``update_rouge`` (``None`` without rouge-score) are in [0, 1]; ``exact_match``
    and ``copy`` are 0 or 1. An empty prediction has no n-gram whose count could be smoothed: its ``sentence_gleu`` is
    the share of references that are empty too.

    Raises:
        LayerSelectError: there is no reference.
    """
    (prediction,), (references,), (source,) = checked_texts([prediction], [references], [source])
    scores = revision_scores([source], [prediction], [references])
    if prediction.split():
        smoothed = sentence_gleu(source, prediction, references)
    else:
        smoothed = sum(not reference.split() for reference in references) / len(references)
    return {
        "sari": scores.sari,
        "add": scores.add,
        "keep": scores.keep,
        "delete": scores.delete,
        "sentence_gleu": smoothed,
        "update_rouge": scores.update_rouge,
        "exact_match": scores.exact_match,
        "copy": scores.copy_rate,
    }


def _update_rouge(
    sources: Sequence[str], predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> float | None:
    try:
        return update_rouge(sources, predictions, references)["rouge1"]
    except ModuleNotFoundError as error:
        _say_what_is_missing(str(error.name))
        return None


@cache  # once, not for every example
def _say_what_is_missing(module: str) -> None:
    logger.warning("Update-ROUGE is left out: %s is missing, pip install 'layerselect[revise]'", module)
