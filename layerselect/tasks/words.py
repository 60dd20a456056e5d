"""Words of a text, and the word-level edits that turn one text into another."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import NamedTuple

# Letters and digits in a row are one word and every other visible character stands alone, so that a comma put
# after a word is an added comma and not a replaced word.
_WORD = re.compile(r"\w+|[^\w\s]")


class Edit(NamedTuple):
    """Words ``[before_start, before_end)`` of the old text became ``[after_start, after_end)`` of the new one."""

    before_start: int
    before_end: int
    after_start: int
    after_end: int


def split_words(text: str) -> list[str]:
    """The words and punctuation marks of ``text``, in order; white space is dropped."""
    return _WORD.findall(text)


def find_edits(before: list[str], after: list[str], gap: int = 0) -> list[Edit]:
    """The runs of words that differ, in order. Upper and lower case differ: a capital may be the revision.

    Edits with at most ``gap`` common words between them count as one.
    """
    edits: list[Edit] = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        edit = Edit(i1, i2, j1, j2)
        if edits and edit.before_start - edits[-1].before_end <= gap:
            first = edits.pop()
            edit = edit._replace(before_start=first.before_start, after_start=first.after_start)
        edits.append(edit)
    return edits


def changed_words(before: str, after: str) -> tuple[list[str], list[str]]:
    """The words that were removed and the words that were added."""
    old, new = split_words(before), split_words(after)
    removed: list[str] = []
    added: list[str] = []
    for edit in find_edits(old, new):
        removed += old[edit.before_start : edit.before_end]
        added += new[edit.after_start : edit.after_end]
    return removed, added
