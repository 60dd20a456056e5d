"""The edits of revised texts beside those of their references: made, left out, or nobody's but the model's.

An edit is a run of words that differs between a source and its revision: words were inserted, deleted, or replaced by
others. Punctuation marks are words, a capital is another word, and white space is none. Where a script puts no space
between words, a character counts as one. Two edits are the same if they stand at the same place of the source and put
the same words there. Of equal words in a row it is all one which was deleted: every edit stands as far left as it can.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from ..data.edits import find_edits, split_words
from ..errors import LayerSelectError
from ..utils.saved_schema import Fields, Mapped, fields_of
from .texts import checked_texts, same_text, spaced

#: The kinds of edits, in the order of tables.
KINDS = ("insert", "delete", "replace")
#: What is counted of the edits of each kind.
COUNTED = ("asked", "done", "made", "right")
#: How many numbers :func:`edit_counts` has of a revision.
NUMBERS = 2 + len(KINDS) * len(COUNTED)


class WordEdit(NamedTuple):
    """The words ``[start, end)`` of a source became ``words``."""

    start: int
    end: int
    words: tuple[str, ...]

    @property
    def kind(self) -> str:
        """``insert``, ``delete`` or ``replace``."""
        if self.start == self.end:
            return "insert"
        return "replace" if self.words else "delete"


@dataclass(frozen=True)
class EditCounts:
    """Edits of some revisions, counted.

    Attributes:
        asked: those of the references; of several references, of the one that a revision agrees best with.
        done: how many of these were made.
        made: those of the revisions.
        right: how many of these are in any reference.
    """

    asked: int
    done: int
    made: int
    right: int

    @property
    def share_done(self) -> float | None:
        """The share of the references' edits that were made (recall); ``None`` where they have none."""
        return self.done / self.asked if self.asked else None

    @property
    def share_unasked(self) -> float | None:
        """The share of the edits made that are in no reference (1 - precision); ``None`` where none was made."""
        return 1 - self.right / self.made if self.made else None


@dataclass(frozen=True)
class EditReport:
    """What some revisions changed, beside what their references change.

    Attributes:
        revisions: how many there are.
        copies: how many equal their source but for white space.
        invented: words written, each time that they are, that stand in neither the source nor any reference. Upper and
            lower case count as one, and marks are no words here.
        edits: all of them together.
        kinds: by the kind of edit; of the references' edits it is the edit's own, not that of what was made instead.
    """

    revisions: int
    copies: int
    invented: int
    edits: EditCounts
    kinds: Mapping[str, EditCounts]

    @property
    def share_copied(self) -> float | None:
        """The share of the revisions that are copies; ``None`` where there is none."""
        return self.copies / self.revisions if self.revisions else None

    @property
    def invented_each(self) -> float | None:
        """Invented words in a revision, in the mean; ``None`` where there is none."""
        return self.invented / self.revisions if self.revisions else None

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EditReport:
        """The report that :meth:`as_dict` wrote."""
        kinds = {kind: EditCounts(**counts) for kind, counts in values["kinds"].items()}
        return cls(**{**values, "edits": EditCounts(**values["edits"]), "kinds": kinds})

    @classmethod
    def of_counts(cls, counts: np.ndarray) -> EditReport:
        """The report of the revisions whose rows :func:`edit_counts` made, int64 ``[n, 14]``."""
        copies, invented, *of_kinds = counts.sum(axis=0).tolist()
        several = [EditCounts(*each) for each in np.reshape(of_kinds, (len(KINDS), len(COUNTED))).tolist()]
        return cls(len(counts), copies, invented, _added(several), dict(zip(KINDS, several, strict=True)))


#: An :class:`EditReport` as it is saved.
SAVED = fields_of(
    EditReport, edits=fields_of(EditCounts), kinds=Fields({kind: fields_of(EditCounts) for kind in KINDS}, closed=True)
)
SAVED_BY_INTENTION = Mapped(SAVED)


def edit_reports(
    sources: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    intentions: Sequence[Sequence[str]] | None = None,
) -> tuple[EditReport, dict[str, EditReport]]:
    """The report of all revisions, and of those for each intention, by name.

    Of several references the one counts as asked for whose edits agree best with those made, by their F1; of equals,
    the one with the fewest edits. A revision that is one of its references has therefore made all edits that were
    asked for, and none that was not; a copy has made none.

    Args:
        sources, predictions: ``n`` texts.
        references: for each source, one or more texts.
        intentions: for each source, what its revision is for. One with several counts in each of them.

    Raises:
        LayerSelectError: there is no example, the lengths differ, or a source has no reference.
    """
    predictions, references, sources = checked_texts(predictions, references, sources)
    named = [()] * len(sources) if intentions is None else list(intentions)
    if len(named) != len(sources):
        raise LayerSelectError(f"there are {len(sources)} sources and {len(named)} lists of intentions")
    each = [_compared(*texts) for texts in zip(sources, predictions, references, strict=True)]
    occurring = sorted({name for several in named for name in several})
    by_intention = {
        name: _summed(one for one, several in zip(each, named, strict=True) if name in several) for name in occurring
    }
    return _summed(each), by_intention


def edit_counts(sources: Sequence[str], predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """What each revision changed, in numbers that can be summed and kept; :meth:`EditReport.of_counts` reads sums.

    Args:
        sources, predictions, references: as for :func:`edit_reports`.

    Returns:
        int64 ``[n, 14]``: whether it is a copy, its invented words, and of each of :data:`KINDS` the edits asked for,
        done, made and right, as in :class:`EditCounts`.

    Raises:
        LayerSelectError: there is no example, the lengths differ, or a source has no reference.
    """
    predictions, references, sources = checked_texts(predictions, references, sources)
    rows = []
    for texts in zip(sources, predictions, references, strict=True):
        one = _compared(*texts)
        of_kinds = [getattr(one.kinds[kind], name) for kind in KINDS for name in COUNTED]
        rows.append([one.copies, one.invented, *of_kinds])
    return np.array(rows, dtype=np.int64)


def word_edits(source: Sequence[str], text: Sequence[str]) -> list[WordEdit]:
    """The edits from the words ``source`` to the words ``text``, in order, each as far left as it can stand."""
    found: list[WordEdit] = []
    for edit in find_edits(list(source), list(text)):
        start, end = edit.before_start, edit.before_end
        words = tuple(text[edit.after_start : edit.after_end])
        # At least a common word stays between two edits.
        left = found[-1].end + 1 if found else 0
        while start > left and not words and source[start - 1] == source[end - 1]:
            start, end = start - 1, end - 1
        while start > left and start == end and source[start - 1] == words[-1]:
            start, end, words = start - 1, end - 1, (words[-1], *words[:-1])
        found.append(WordEdit(start, end, words))
    return found


def _compared(source: str, prediction: str, references: Sequence[str]) -> EditReport:
    """One revision."""
    before, after, *others = (split_words(spaced(text)) for text in (source, prediction, *references))
    made = set(word_edits(before, after))
    wanted = [set(word_edits(before, other)) for other in others]
    closest = max(wanted, key=lambda edits: (_agreement(made, edits), -len(edits)))
    anywhere = set().union(*wanted)
    known = {word.lower() for words in (before, *others) for word in words}
    return EditReport(
        1,
        int(same_text(source, prediction)),
        sum(_is_word(word) and word.lower() not in known for word in after),
        _counted(made, closest, anywhere),
        {kind: _counted(*(_of_kind(kind, edits) for edits in (made, closest, anywhere))) for kind in KINDS},
    )


def _agreement(made: set[WordEdit], wanted: set[WordEdit]) -> float:
    """F1 of the edits; 1 where there is nothing to make and nothing was made."""
    return 2 * len(made & wanted) / (len(made) + len(wanted)) if made or wanted else 1.0


def _counted(made: set[WordEdit], closest: set[WordEdit], anywhere: set[WordEdit]) -> EditCounts:
    return EditCounts(len(closest), len(made & closest), len(made), len(made & anywhere))


def _of_kind(kind: str, edits: set[WordEdit]) -> set[WordEdit]:
    return {edit for edit in edits if edit.kind == kind}


def _is_word(word: str) -> bool:
    return any(character.isalnum() for character in word)


def _summed(reports: Iterable[EditReport]) -> EditReport:
    several = list(reports)
    return EditReport(
        len(several),
        sum(one.copies for one in several),
        sum(one.invented for one in several),
        _added(one.edits for one in several),
        {kind: _added(one.kinds[kind] for one in several) for kind in KINDS},
    )


def _added(counts: Iterable[EditCounts]) -> EditCounts:
    several = list(counts)
    return EditCounts(*(sum(getattr(one, name) for one in several) for name in COUNTED))
