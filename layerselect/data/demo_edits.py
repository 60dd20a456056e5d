"""Edits by rule, one family per intention, for the demo corpus.

An edit replaces a span of a sentence on one side of the revision, so edits whose spans do not overlap can
stand in the same row. The families share words and operations on purpose (a word before "many" was "a lot
of" (style), "a large number of" (clarity) or "few" (meaning-changed); every family adds, deletes and
replaces): neither the operation nor one word says the intention.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from layerselect.data import demo_words as words


class Edit(NamedTuple):
    """`text[start:stop]` reads `other` on one side; the other side keeps the sentence as it is."""

    start: int
    stop: int
    other: str
    side: Literal["before", "after"]


def apply(text: str, edits: list[Edit]) -> tuple[str, str]:
    """(before, after) of a sentence with edits that do not overlap."""
    sides = {"before": text, "after": text}
    for edit in sorted(edits, reverse=True):
        old = sides[edit.side]
        sides[edit.side] = old[: edit.start] + edit.other + old[edit.stop :]
    return sides["before"], sides["after"]


def fluency(text: str, draw: random.Random) -> list[Edit]:
    """Spelling, agreement, articles, prepositions, doubled and missing words, commas and capitals put right."""
    edits = []
    for start, stop, word in _words(text):
        if len(word) >= 5 and word.isalpha():
            edits.append(Edit(start, stop, _misspelt(word, draw), "before"))
        for right, wrong in words.FORMS:
            if word == right:
                edits.append(Edit(start, stop, wrong, "before"))
        if word in words.VERBS:
            wrong = word[:-1] if word.endswith("s") else word + "s"
            edits.append(Edit(start, stop, wrong, "before"))
        if word in ("the", "a", "an", "to", "of", "is", "are", "was"):
            edits.append(Edit(start, stop + 1, "", "before"))  # missing
            edits.append(Edit(start, stop, f"{word} {word}", "before"))  # doubled
        if word[0].isupper() and (start == 0 or word in words.DAYS + words.MONTHS + words.PLACES):
            edits.append(Edit(start, start + 1, word[0].lower(), "before"))
    edits += [Edit(m.start(), m.end(), "", "before") for m in re.finditer(",", text)]
    if text.endswith("."):
        edits.append(Edit(len(text) - 1, len(text), "", "before"))
    return edits


def clarity(text: str, draw: random.Random) -> list[Edit]:
    """Wordy phrases, fillers and empty openings cut."""
    edits = [Edit(a, b, wordy, "before") for a, b, wordy in _replacements(text, words.WORDY)]
    edits.append(Edit(0, 1, f"{draw.choice(words.OPENINGS)} {_small_initial(text)}", "before"))
    for place in _after_verbs(text):
        edits.append(Edit(place, place, f" {draw.choice(words.FILLERS)}", "before"))
    return edits


def style(text: str, draw: random.Random) -> list[Edit]:
    """From casual to neutral, or from neutral to formal."""
    edits = [Edit(a, b, casual, "before") for a, b, casual in _replacements(text, words.CASUAL)]
    edits += [Edit(a, b, formal, "after") for a, b, formal in _replacements(text, words.FORMAL)]
    edits.append(Edit(0, 1, f"{draw.choice(words.CHATTER).capitalize()} {_small_initial(text)}", "before"))
    if text.endswith("."):
        edits.append(Edit(len(text) - 1, len(text), draw.choice(["!", "!!", ", lol."]), "before"))
    return edits


def meaning(text: str, draw: random.Random) -> list[Edit]:
    """Numbers, names, days, quantities and negations changed; both directions."""
    edits = []
    for first, second in [pair for both in words.OPPOSITES for pair in (both, both[::-1])]:
        for start, stop, _ in _replacements(text, {first: [second]}):
            edits.append(Edit(start, stop, second, draw.choice(("before", "after"))))
    for start, stop, word in _words(text):
        for group in (words.NUMBERS, words.DAYS, words.MONTHS, words.PLACES):
            if word.lower() in (name.lower() for name in group):
                other = draw.choice([name for name in group if name.lower() != word.lower()])
                edits.append(Edit(start, stop, _cased(other, word), draw.choice(("before", "after"))))
        if word.isdigit():
            changed = str(max(2, int(word) + draw.choice((-30, -7, 5, 12, 40))))
            edits.append(Edit(start, stop, changed, draw.choice(("before", "after"))))
    return [edit for edit in edits if edit.other != text[edit.start : edit.stop]]


def coherence(text: str, draw: random.Random, relation: str) -> list[Edit]:
    """Links to the sentence before: connectives added, mended or taken out, sentences joined or parted."""
    small = _small_initial(text)
    fitting = words.CONNECTIVES.get(relation, [])
    wrong = [word for kind, group in words.CONNECTIVES.items() if kind != relation for word in group]
    edits = [Edit(0, 1, f"{word} {small}", "after") for word in fitting]
    if not fitting:  # a first sentence follows from nothing
        edits += [Edit(0, 1, f"{draw.choice(wrong)} {small}", "before") for _ in range(2)]
    for joined, parted in words.JOINTS:
        for found in re.finditer(re.escape(joined), text):
            edits.append(Edit(found.start(), found.end(), parted, draw.choice(("before", "before", "after"))))
    if fitting and text.endswith(".") and relation == "add":
        edits.append(Edit(len(text) - 1, len(text), ", too.", "after"))
    return edits


def connective_swap(text: str, draw: random.Random, relation: str) -> tuple[str, str, str] | None:
    """(before, after, intention) with a connective on both sides: an unfitting one mended (coherence) or a
    casual one made neutral (style). None where the sentence follows from nothing."""
    if relation not in words.CONNECTIVES:
        return None
    rest = _small_initial(text) + text[1:]
    right = draw.choice(words.CONNECTIVES[relation])
    if draw.random() < 0.3:
        return f"{words.CASUAL_CONNECTIVES[relation]} {rest}", f"{right} {rest}", "style"
    kind = draw.choice([name for name in words.CONNECTIVES if name != relation])
    return f"{draw.choice(words.CONNECTIVES[kind])} {rest}", f"{right} {rest}", "coherence"


def _words(text: str) -> Iterator[tuple[int, int, str]]:
    for found in re.finditer(r"[\w'-]+", text):
        yield found.start(), found.end(), found.group()


def _replacements(text: str, table: dict[str, list[str]]) -> Iterator[tuple[int, int, str]]:
    """(start, stop, other) for every phrase of the table that stands in the text as whole words."""
    for phrase, others in table.items():
        for found in re.finditer(rf"\b{re.escape(phrase)}\b", text, re.IGNORECASE):
            for other in others:
                yield found.start(), found.end(), _cased(other, found.group())


def _cased(other: str, like: str) -> str:
    if other in (*words.DAYS, *words.MONTHS, *words.PLACES):
        return other
    return other[0].upper() + other[1:] if like[0].isupper() else other


def _small_initial(text: str) -> str:
    """First letter, made small unless the first word is a name."""
    first = re.match(r"\w+", text)
    return text[0] if first and first.group() in (*words.DAYS, *words.MONTHS, *words.PLACES) else text[0].lower()


def _after_verbs(text: str) -> list[int]:
    marks = re.finditer(r"\b(is|are|was|were|has|have|must|can|will|does|did)\b", text)
    return [found.end() for found in marks]


def _misspelt(word: str, draw: random.Random) -> str:
    """Two letters swapped, one dropped, one doubled or one replaced; never the first letter."""
    while True:
        i = draw.randrange(1, len(word) - 1)
        kind = draw.randrange(4)
        if kind == 0:
            wrong = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        elif kind == 1:
            wrong = word[:i] + word[i + 1 :]
        elif kind == 2:
            wrong = word[:i] + word[i] + word[i:]
        else:
            wrong = word[:i] + draw.choice("aeioustr") + word[i + 1 :]
        if wrong != word:
            return wrong
