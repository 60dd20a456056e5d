"""Words of a text, and the word-level edits that turn one text into another."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Hashable, Sequence
from difflib import Match, SequenceMatcher
from itertools import accumulate
from typing import Literal, NamedTuple

MOST_COMPARED = 4_000_000
"""Pairs of equal words that an alignment looks at. Texts of usual length need some thousands."""

Tag = Literal["replace", "delete", "insert", "equal"]

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


def opcodes(old: Sequence[Hashable], new: Sequence[Hashable]) -> list[tuple[Tag, int, int, int, int]]:
    """The steps from ``old`` to ``new``, as ``difflib.SequenceMatcher.get_opcodes`` gives them.

    difflib looks at all words anew for every match, so that the time for words in another order grows faster than their
    square. Here what it looks at is counted; once that is `MOST_COMPARED`, only the equal beginning and end of a
    stretch still count as matches, and what stands between them as replaced.
    """
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    places: dict[Hashable, int] = {word: len(found) for word, found in matcher.b2j.items()}
    cost = [0, *accumulate(1 + places.get(word, 0) for word in old)]
    left = MOST_COMPARED
    found: list[tuple[int, int, int]] = []
    # The widest stretches come first, so that what is left for the end is little.
    stretches = deque([(0, len(old), 0, len(new))])
    while stretches:
        low, high, new_low, new_high = stretches.popleft()
        if (price := cost[high] - cost[low]) > left:
            found += _ends(old, new, low, high, new_low, new_high)
            continue
        left -= price
        i, j, size = matcher.find_longest_match(low, high, new_low, new_high)
        if size:
            found.append((i, j, size))
            if low < i and new_low < j:
                stretches.append((low, i, new_low, j))
            if i + size < high and j + size < new_high:
                stretches.append((i + size, high, j + size, new_high))
    matcher.matching_blocks = _joined(sorted(found), len(old), len(new))
    return matcher.get_opcodes()


def likeness(old: Sequence[Hashable], new: Sequence[Hashable]) -> float:
    """Share of both that is equal and in order, 0 to 1: as ``SequenceMatcher.ratio``, with the bound of `opcodes`."""
    same = sum(stop - start for tag, start, stop, _, _ in opcodes(old, new) if tag == "equal")
    return 2 * same / (len(old) + len(new)) if len(old) + len(new) else 1.0


def _ends(
    old: Sequence[Hashable], new: Sequence[Hashable], low: int, high: int, new_low: int, new_high: int
) -> list[tuple[int, int, int]]:
    """The equal beginning and the equal end of a stretch, as matches."""
    most = min(high - low, new_high - new_low)
    first = next((n for n in range(most) if old[low + n] != new[new_low + n]), most)
    last = next((n for n in range(most - first) if old[high - 1 - n] != new[new_high - 1 - n]), most - first)
    found = [(low, new_low, first), (high - last, new_high - last, last)]
    return [match for match in found if match[2]]


def _joined(found: list[tuple[int, int, int]], old: int, new: int) -> list[Match]:
    """Matches in order, neighbours as one, and the empty one with which difflib ends."""
    matches: list[tuple[int, int, int]] = []
    for i, j, size in found:
        if matches and (matches[-1][0] + matches[-1][2], matches[-1][1] + matches[-1][2]) == (i, j):
            i, j, before = matches.pop()
            size += before
        matches.append((i, j, size))
    return [Match(*match) for match in (*matches, (old, new, 0))]


def find_edits(before: list[str], after: list[str], gap: int = 0) -> list[Edit]:
    """The runs of words that differ, in order. Upper and lower case differ: a capital may be the revision.

    Edits with at most ``gap`` common words between them count as one.
    """
    edits: list[Edit] = []
    for tag, i1, i2, j1, j2 in opcodes(before, after):
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
