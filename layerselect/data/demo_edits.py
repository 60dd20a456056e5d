"""Edits by rule, one family per intention, for the demo corpus.

An edit replaces a span of a sentence on one side of the revision, so edits whose spans do not overlap can
stand in the same row. The families share words and operations on purpose: "many" may have been "a lot of"
(style), "a large number of" (clarity) or "few" (meaning-changed), "is" may have been "are" (fluency) or
"is not"; nearly all of them add, delete and replace. So neither the operation nor one word is the intention.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from . import demo_words as words


class Edit(NamedTuple):
    """`text[start:stop]` reads `other` on one side; the other side keeps the sentence as it is.

    `kind` groups the edits of a family: a kind is drawn first, by `WEIGHTS`, then an edit of it, so that
    what is possible everywhere (a misspelling) does not crowd out the rest.
    """

    start: int
    stop: int
    other: str
    side: Literal["before", "after"]
    kind: str


WEIGHTS = {
    "misspelt": 3.0,
    "form": 2.0,
    "verb": 2.0,
    "word": 2.0,
    "capital": 0.7,
    "comma": 1.0,
    "stop": 0.3,
    "wordy": 6.0,
    "opening": 1.0,
    "filler": 1.5,
    "casual": 4.0,
    "formal": 4.0,
    "chatter": 1.0,
    "ending": 0.5,
    "opposite": 3.0,
    "name": 3.0,
    "detail": 3.0,
    "connective": 3.0,
    "joint": 3.0,
}


def pick(edits: list[Edit], draw: random.Random) -> Edit:
    """One edit: its kind by weight, then its place, then one of the edits there."""
    kinds = sorted({edit.kind for edit in edits})
    kind = draw.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
    place = draw.choice(sorted({edit[:2] for edit in edits if edit.kind == kind}))
    return draw.choice([edit for edit in edits if edit.kind == kind and edit[:2] == place])


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
            edits.append(Edit(start, stop, _misspelt(word, draw), "before", "misspelt"))
        for right, wrong in words.FORMS:
            if word == right:
                edits.append(Edit(start, stop, wrong, "before", "form"))
        if word in words.VERBS:
            wrong = word[:-1] if word.endswith("s") else word + "s"
            edits.append(Edit(start, stop, wrong, "before", "verb"))
        if word in ("the", "a", "an", "to", "of", "is", "are", "was"):
            edits.append(Edit(start, stop + 1, "", "before", "word"))  # missing
            edits.append(Edit(start, stop, f"{word} {word}", "before", "word"))  # doubled
        if word[0].isupper() and (start == 0 or _is_name(word)):
            edits.append(Edit(start, start + 1, word[0].lower(), "before", "capital"))
    edits += [Edit(m.start(), m.end(), "", "before", "comma") for m in re.finditer(",", text)]
    if text.endswith("."):
        edits.append(Edit(len(text) - 1, len(text), "", "before", "stop"))
    return edits


def clarity(text: str, draw: random.Random) -> list[Edit]:
    """Wordy phrases, fillers and empty openings cut."""
    edits = [Edit(a, b, wordy, "before", "wordy") for a, b, wordy in _replacements(text, words.WORDY)]
    opening = f"{draw.choice(words.OPENINGS)} {_small_initial(text)}"
    edits.append(Edit(0, 1, opening, "before", "opening"))
    for place in _after_verbs(text):
        edits.append(Edit(place, place, f" {draw.choice(words.FILLERS)}", "before", "filler"))
    return edits


def style(text: str, draw: random.Random) -> list[Edit]:
    """From casual to neutral, or from neutral to formal."""
    edits = [Edit(a, b, casual, "before", "casual") for a, b, casual in _replacements(text, words.CASUAL)]
    edits += [Edit(a, b, formal, "after", "formal") for a, b, formal in _replacements(text, words.FORMAL)]
    chatter = f"{draw.choice(words.CHATTER).capitalize()} {_small_initial(text)}"
    edits.append(Edit(0, 1, chatter, "before", "chatter"))
    if text.endswith("."):
        edits.append(Edit(len(text) - 1, len(text), draw.choice(["!", "!!", ", lol."]), "before", "ending"))
    return edits


def meaning(text: str, draw: random.Random) -> list[Edit]:
    """Numbers, names, days, quantities and negations changed; both directions."""
    edits = []
    for first, second in [pair for both in words.OPPOSITES for pair in (both, both[::-1])]:
        for start, stop, other in _replacements(text, {first: [second]}):
            edits.append(Edit(start, stop, other, _any_side(draw), "opposite"))
    for start, stop, word in _words(text):
        for group in (words.NUMBERS, words.DAYS, words.MONTHS, words.PLACES):
            if word.lower() in (name.lower() for name in group):
                other = draw.choice([name for name in group if name.lower() != word.lower()])
                edits.append(Edit(start, stop, _cased(other, word), _any_side(draw), "name"))
        if word.isdigit():
            changed = str(max(2, int(word) + draw.choice((-30, -7, 5, 12, 40))))
            edits.append(Edit(start, stop, changed, _any_side(draw), "name"))
    return edits


def coherence(text: str, draw: random.Random, relation: str) -> list[Edit]:
    """Links to the sentence before: connectives added, mended or taken out, sentences joined or parted."""
    small = _small_initial(text)
    fitting = words.CONNECTIVES.get(relation, [])
    edits = [Edit(0, 1, f"{word} {small}", "after", "connective") for word in fitting]
    if not fitting:  # the sentence follows from nothing: a connective in front of it is taken out
        every = [word for group in words.CONNECTIVES.values() for word in group]
        edits.append(Edit(0, 1, f"{draw.choice(every)} {small}", "before", "connective"))
    for joined, parted in words.JOINTS:
        for found in re.finditer(re.escape(joined), text):
            edits.append(Edit(found.start(), found.end(), parted, _any_side(draw), "joint"))
    return edits


def connective_swap(text: str, draw: random.Random, relation: str) -> tuple[str, str, str] | None:
    """(before, after, intention) with a connective on both sides: an unfitting one mended (coherence) or a
    casual one made neutral (style). None where the sentence follows from nothing.
    """
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
    """(start, stop, other) for every phrase (a regular expression) of the table, matched as whole words."""
    for phrase, others in table.items():
        for found in re.finditer(rf"\b{phrase}\b", text, re.IGNORECASE):
            for other in others:
                yield found.start(), found.end(), _cased(other, found.group())


def _any_side(draw: random.Random) -> Literal["before", "after"]:
    return "before" if draw.random() < 0.5 else "after"


def _is_name(word: str) -> bool:
    return word in words.DAYS or word in words.MONTHS or word in words.PLACES


def _cased(other: str, like: str) -> str:
    if _is_name(other):
        return other
    return other[0].upper() + other[1:] if like[0].isupper() else other


def _small_initial(text: str) -> str:
    """First letter, made small unless the first word is a name."""
    first = re.match(r"\w+", text)
    return text[0] if first and _is_name(first.group()) else text[0].lower()


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
