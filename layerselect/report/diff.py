"""The word-level difference of two texts, and how a page marks it."""

from __future__ import annotations

from html import escape
from typing import Literal

from ..data.edits import find_edits, split_words

Kind = Literal["same", "insert", "delete"]
_TAGS = {"insert": "ins", "delete": "del"}


def difference(source: str, other: str) -> list[tuple[Kind, str]]:
    """What was kept, inserted and deleted on the way from ``source`` to ``other``, in order.

    The pieces lose nothing, white space included: ``same`` and ``delete`` joined are ``source``, ``same`` and
    ``insert`` joined are ``other``. No piece is empty, no two neighbours are of one kind, and of an exchange the
    deletion comes first.
    """
    old, new = split_words(source), split_words(other)
    old_gaps, new_gaps = _gaps(source, old), _gaps(other, new)
    pieces = _Pieces()
    row = column = 0
    for edit in (*find_edits(old, new), None):
        common = (edit.before_start if edit else len(old)) - row
        for offset in range(common):
            pieces.exchange(old_gaps[row + offset], new_gaps[column + offset])
            pieces.same(old[row + offset])
        if edit is None:
            break
        row, column = edit.before_end, edit.after_end
        before = _text(old, old_gaps, edit.before_start, row)
        after = _text(new, new_gaps, edit.after_start, column)
        if before and after and old_gaps[edit.before_start] == new_gaps[edit.after_start]:
            # The space before an exchanged word is not exchanged.
            gap = old_gaps[edit.before_start]
            pieces.same(gap)
            before, after = before[len(gap) :], after[len(gap) :]
        pieces.change(before, after)
    pieces.exchange(old_gaps[-1], new_gaps[-1])
    return pieces.closed()


def difference_html(source: str, other: str) -> str:
    """The difference as HTML, ``<del>`` and ``<ins>`` around what changed, everything escaped.

    A change of white space alone has the class ``space``, so that a style can make it visible.
    """
    parts = []
    for kind, text in difference(source, other):
        if kind == "same":
            parts.append(escape(text))
        else:
            tag = _TAGS[kind]
            mark = "" if text.strip() else ' class="space"'
            parts.append(f"<{tag}{mark}>{escape(text)}</{tag}>")
    return "".join(parts)


class _Pieces:
    """Collects pieces; deletions and insertions wait for the next common text, so that each kind is one piece."""

    def __init__(self) -> None:
        self._pieces: list[tuple[Kind, str]] = []
        self._same = self._deleted = self._inserted = ""

    def same(self, text: str) -> None:
        if text and (self._deleted or self._inserted):
            self._flush()
        self._same += text

    def change(self, before: str, after: str) -> None:
        self._deleted += before
        self._inserted += after

    def exchange(self, before: str, after: str) -> None:
        """White space that stands in the same place of both texts."""
        if before == after:
            self.same(before)
        else:
            self.change(before, after)

    def closed(self) -> list[tuple[Kind, str]]:
        self._flush()
        return self._pieces

    def _flush(self) -> None:
        found: tuple[tuple[Kind, str], ...] = (
            ("same", self._same),
            ("delete", self._deleted),
            ("insert", self._inserted),
        )
        self._pieces += [(kind, text) for kind, text in found if text]
        self._same = self._deleted = self._inserted = ""


def _gaps(text: str, words: list[str]) -> list[str]:
    """The white space before each word and, last, behind all of them."""
    gaps, start = [], 0
    for word in words:
        place = text.index(word, start)
        gaps.append(text[start:place])
        start = place + len(word)
    return [*gaps, text[start:]]


def _text(words: list[str], gaps: list[str], start: int, end: int) -> str:
    return "".join(gaps[place] + words[place] for place in range(start, end))
