"""Sentences, and the cutting of long texts at their borders: of pairs to train on, and of texts to revise.

Whether a text fits is for the caller to say, who counts tokens. A longer text that holds one that does not fit is taken
not to fit either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from ...data.edits import opcodes
from ...errors import LayerSelectError

# A newline ends a sentence; so do . ! ? with closing quotes and brackets behind them, where white space follows.
_BORDER = re.compile(r"""\n\s*|(?<![.!?…])(?P<end>[.!?…]+["'”’»)\]]*)\s+""")
# What stands before a period that ends no sentence. An initial, "U.S." and a number at the start of a line do not
# either.
_ABBREVIATIONS = frozenset(
    (
        "al",
        "approx",
        "apr",
        "aug",
        "ca",
        "capt",
        "cf",
        "ch",
        "chap",
        "co",
        "col",
        "corp",
        "dec",
        "dr",
        "e.g",
        "ed",
        "eds",
        "eg",
        "eq",
        "eqs",
        "esp",
        "feb",
        "fig",
        "figs",
        "gen",
        "gov",
        "i.e",
        "ie",
        "inc",
        "jan",
        "jr",
        "lt",
        "ltd",
        "messrs",
        "mr",
        "mrs",
        "ms",
        "mt",
        "nov",
        "oct",
        "p",
        "pp",
        "pres",
        "prof",
        "ref",
        "refs",
        "rep",
        "resp",
        "rev",
        "sec",
        "secs",
        "sen",
        "sept",
        "sgt",
        "sr",
        "st",
        "tab",
        "v",
        "viz",
        "vol",
        "vols",
        "vs",
    )
)
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘«]+$")
_LONGEST = 20  # characters of such a word, or more
_INITIAL = re.compile(r"(\w\.)*[A-Z]")
_WORD = re.compile(r"\S+\s*|\s+")
# Two sentences that share fewer of their words are not versions of one another.
_ALIKE = 0.3


def split_sentences(text: str) -> list[str]:
    """The sentences of an English text with the white space behind them; joined they are the text exactly.

    Simple rules, which err towards sentences that are too long: see ``_BORDER`` and ``_ABBREVIATIONS``. A text that
    begins with white space keeps it in its first sentence.
    """
    pieces, start = [], 0
    first = len(text) - len(text.lstrip())
    for border in _BORDER.finditer(text):
        if max(start, first) < border.start() and border.end() < len(text) and _ends(text, start, border):
            pieces.append(text[start : border.end()])
            start = border.end()
    return [*pieces, text[start:]] if text else []


def _ends(text: str, start: int, border: re.Match[str]) -> bool:
    mark = border["end"]
    if mark is None or "\n" in border[0]:
        return True
    following = text[border.end()]
    if following.islower() or following in ".,;:!?":  # "Why?" he asked; an abbreviation that is not in the list; . . .
        return False
    if not mark.startswith("."):
        return True
    before = text[max(start, border.start() - _LONGEST) : border.start()]
    found = _LAST_WORD.search(before)
    word = found[0] if found else ""
    numbered = word.isdigit() and before.strip() == word  # 1. First
    numbered = numbered or (word.lower() in ("no", "nos") and following.isdigit())
    return not (word.lower() in _ABBREVIATIONS or _INITIAL.fullmatch(word) or numbered)


@dataclass(frozen=True)
class CutPair:
    """What is kept of a revision.

    Attributes:
        cut: it is not the whole.
        kept_sentences: how many sentences are kept, one that is kept in part among them. A sentence and its revision
            are one.
        sentences: how many there were.
    """

    before: str
    after: str
    cut: bool
    kept_sentences: int
    sentences: int


class _Group(NamedTuple):
    """A piece of the old text and what became of it; one of them may be empty."""

    before: str
    after: str

    @property
    def changed(self) -> bool:
        return self.before.split() != self.after.split()


def cut_pair(before: str, after: str, fits: Callable[[str, str], bool]) -> CutPair:
    """The part of a revision that fits and holds the most changed sentences, the earliest of several.

    The sentences of both sides are aligned, and whole ones in a row are kept. Where no changed one fits alone, the
    first of them is cut at word borders in the same way, and within a word as the last resort. What is cut loses the
    white space at its ends.

    Args:
        fits: whether a (before, after) can be used as it is.

    Raises:
        LayerSelectError: nothing fits, not even a single character.
    """
    groups = _align(split_sentences(before), split_sentences(after), by_likeness=True)
    if fits(before, after):
        return CutPair(before, after, False, len(groups), len(groups))
    if kept := _best_run(groups, fits):
        return CutPair(*_joined(kept), True, len(kept), len(groups))
    first = next((group for group in groups if group.changed), groups[0] if groups else _Group("", ""))
    for split in (_WORD.findall, list):
        if kept := _best_run(_align(split(first.before), split(first.after)), fits):
            return CutPair(*_joined(kept), True, 1, len(groups))
    raise _nothing_fits()


def split_text(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Pieces that are revised one by one; joined they are the text exactly.

    A piece holds as many whole sentences in a row as fit. A sentence that does not fit alone is cut at word borders,
    and a word within. The white space around a piece is not to be revised: see :func:`outer_space`, whose middle
    ``fits`` is asked about.

    Raises:
        LayerSelectError: nothing fits, not even a single character.
    """
    return _fill([text], fits, (split_sentences, _WORD.findall, list)) if text else []


def _fits_inside(text: str, fits: Callable[[str], bool]) -> bool:
    inner = text.strip()
    return not inner or fits(inner)


def outer_space(text: str) -> tuple[str, str, str]:
    """White space in front, the text, white space behind; joined they are the text. All white space counts as
    behind.
    """
    inner = text.strip()
    start = text.index(inner)
    return text[:start], inner, text[start + len(inner) :]


def _fill(parts: Sequence[str], fits: Callable[[str], bool], splits: Sequence[Callable[[str], list[str]]]) -> list[str]:
    """Joins consecutive parts into pieces that fit; a part that does not fit is split by the first of ``splits``."""
    pieces: list[str] = []
    current = ""
    for part in parts:
        if _fits_inside(current + part, fits):
            current += part
            continue
        if current:
            pieces.append(current)
        current = ""
        if _fits_inside(part, fits):
            current = part
        elif not splits:
            raise _nothing_fits()
        else:
            *whole, current = _fill(splits[0](part), fits, splits[1:])
            pieces += whole
    return [*pieces, current] if current else pieces


def _best_run(groups: Sequence[_Group], fits: Callable[[str, str], bool]) -> list[_Group]:
    """The groups in a row that fit and of which most are changed; none where something is changed and no change
    fits.
    """
    best: list[_Group] = []
    most = -1
    end = 0
    for start in range(len(groups)):
        end = max(end, start)
        # What begins later fits at least as far (but for a token or two: hence the second look below).
        while end < len(groups) and fits(*_joined(groups[start : end + 1])):
            end += 1
        count = sum(group.changed for group in groups[start:end])
        if end > start and count > most and fits(*_joined(groups[start:end])):
            best, most = list(groups[start:end]), count
    return [] if most == 0 and any(group.changed for group in groups) else best


def _joined(groups: Sequence[_Group]) -> tuple[str, str]:
    return "".join(group.before for group in groups).strip(), "".join(group.after for group in groups).strip()


def _align(old: Sequence[str], new: Sequence[str], *, by_likeness: bool = False) -> list[_Group]:
    """Pieces of both sides as groups of at most one piece a side, in order.

    Where pieces were replaced, those alike belong together (``by_likeness``), and the others in their order.
    """
    groups: list[_Group] = []
    # White space is no difference.
    words = [[tuple(piece.split()) for piece in side] for side in (old, new)]
    for tag, i, i_end, j, j_end in opcodes(*words):
        if by_likeness and tag == "replace":
            for di, dj in _alike(words[0][i:i_end], words[1][j:j_end]):
                groups += _in_order(old[i : i + di], new[j : j + dj])
                groups.append(_Group(old[i + di], new[j + dj]))
                i, j = i + di + 1, j + dj + 1
        groups += _in_order(old[i:i_end], new[j:j_end])
    return groups


def _in_order(old: Sequence[str], new: Sequence[str]) -> list[_Group]:
    return [_Group(*pair) for pair in zip_longest(old, new, fillvalue="")]


def _alike(old: Sequence[Sequence[str]], new: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Which pieces belong together: pairs in ascending order on both sides whose shares of common words have the
    largest sum.

    Returns:
        From one pair to the next, how many pieces of ``old`` and of ``new`` are skipped.
    """
    counts = [[Counter(words) for words in side] for side in (old, new)]
    best = [[0.0] * (len(new) + 1) for _ in range(len(old) + 1)]  # of what begins at (i, j)
    for i in reversed(range(len(old))):
        for j in reversed(range(len(new))):
            common = (counts[0][i] & counts[1][j]).total()
            gain = 2 * common / max(len(old[i]) + len(new[j]), 1) - _ALIKE
            best[i][j] = max(best[i + 1][j], best[i][j + 1], best[i + 1][j + 1] + gain)
    skips = []
    i = j = i_skipped = j_skipped = 0
    while i < len(old) and j < len(new):
        if best[i][j] == best[i + 1][j]:
            i, i_skipped = i + 1, i_skipped + 1
        elif best[i][j] == best[i][j + 1]:
            j, j_skipped = j + 1, j_skipped + 1
        else:
            skips.append((i_skipped, j_skipped))
            i, j, i_skipped, j_skipped = i + 1, j + 1, 0, 0
    return skips


def _nothing_fits() -> LayerSelectError:
    return LayerSelectError("the length limit has no room for a single character of the text: raise it")
