"""Families of edits for the demo corpus. In each, the same words are changed with different intentions, and what else
the passage says decides.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from . import demo_words as words

FLUENCY, CLARITY, COHERENCE, STYLE, MEANING = "fluency", "clarity", "coherence", "style", "meaning-changed"


class Topic(NamedTuple):
    """What a document is about: a place in the singular and the plural, and things that are found there."""

    place: str
    places: str
    things: str


class Edit(NamedTuple):
    """A revision: ``removed`` became ``added`` between ``start`` and ``end``. The parts are joined as they are."""

    start: str
    removed: str
    added: str
    end: str

    def sides(self) -> tuple[str, str]:
        """The texts before and after the revision; the first letter of each sentence is made large."""
        return _finish(self.start + self.removed + self.end), _finish(self.start + self.added + self.end)


Family = Callable[[Topic, str, random.Random], Edit]


def possessive(topic: Topic, intention: str, draw: random.Random) -> Edit:
    """Their -> its, and back. Where nothing else in the sentence can be meant it mends a slip (fluency); where both
    words have something to stand for, another owner is named (meaning).
    """
    person, people = draw.choice(words.PEOPLE)
    like, likes = draw.choice(words.LIKES)
    to_singular = draw.random() < 0.5
    if intention == MEANING:
        one, many = f"this {topic.place}", f"these {topic.places}"
        subject, other = draw.choice([(f"the {people} {likes}", one), (f"the {person} {like}", many)])
    elif to_singular:
        subject, other = f"the {person} {like}", f"this {topic.place}"
    else:
        subject, other = f"the {people} {likes}", f"these {topic.places}"
    pair = ("their", "its") if to_singular else ("its", "their")
    return Edit(f"{_opening(draw)}{subject} {other} and ", *pair, f" {topic.things}{_ending(draw)}.")


def tense(topic: Topic, intention: str, draw: random.Random) -> Edit:
    """Open -> opened, and back. Beside a time that asks for the new tense it mends a slip (fluency); otherwise the
    sentence now speaks of another time (meaning).
    """
    present, past = draw.choice(words.TENSES)
    to_past = draw.random() < 0.5
    time = draw.choice(words.ANY_TIME if intention == MEANING else words.PAST if to_past else words.PRESENT)
    pair = (present, past) if to_past else (past, present)
    people = _people(draw)
    return Edit(f"{_opening(draw)}the {people} ", *pair, f" the {topic.things} {time}{_ending(draw)}.")


def fact(topic: Topic, intention: str, draw: random.Random) -> Edit:
    """A day or a number replaced. If the sentence before names the new one, the two now agree (coherence); otherwise
    the passage says something else (meaning).
    """
    place, people = _place(topic, draw), _people(draw)
    values, first, first_end, second, end = draw.choice(
        [
            (words.DAYS, f"the {place} opens on ", "", "on ", f", the {people} {draw.choice(words.DOES)} there"),
            (words.DAYS, f"every {place} has a feast on ", "", f"many {people} come on ", ""),
            (words.NUMBERS, f"the {place} has ", f" {topic.things}", "the ", f" {topic.things} are new"),
            (words.NUMBERS, f"every {place} opens at ", " o'clock", f"the {people} arrive at ", ""),
        ]
    )
    old, new, other = draw.sample(values, 3)
    named = new if intention == COHERENCE else draw.choice((other, other, old))
    return Edit(f"{first}{named}{first_end}. {second}", old, new, f"{end}{_ending(draw)}.")


def term(topic: Topic, intention: str, draw: random.Random) -> Edit:
    """A word replaced by another for the same thing. If the sentence before uses the new one, the passage now has one
    word for it (coherence); otherwise it is a matter of taste (style).
    """
    pairs = draw.sample(words.TERMS, 2)
    old, new = pairs[0] if draw.random() < 0.5 else pairs[0][::-1]
    named = new if intention == COHERENCE else draw.choice((old, draw.choice(pairs[1]), draw.choice(pairs[1])))
    first = draw.choice(
        (f"there are {named} near the {_place(topic, draw)}", f"the {_place(topic, draw)} is known for {named}")
    )
    second = draw.choice((f"the {_people(draw)} like the ", f"the {_people(draw)} look at "))
    return Edit(f"{first}. {second}", old, new, f"{_ending(draw)}.")


def detail(topic: Topic, intention: str, draw: random.Random) -> Edit:
    """A detail at the end taken out. If the sentence has said it already, it was said twice (clarity); otherwise the
    reader now learns less (meaning).
    """
    kinds = draw.sample([words.SEASONS, words.HOURS, words.PLACES], 2)
    lead, gone = draw.choice(kinds[0])
    if intention == MEANING:
        lead = draw.choice(kinds[1])[0]
    start = f"{lead}, the {_people(draw)} of the {_place(topic, draw)} {draw.choice(words.DOES)}{_ending(draw)}"
    return Edit(start, f" {gone}", "", ".")


def to_pronoun(topic: Topic, intention: str, draw: random.Random) -> Edit:
    """The cooks -> they. Of those whom the sentence is about it avoids a repetition (style); otherwise somebody else
    now does it (meaning).
    """
    people, other = (pair[1] for pair in draw.sample(words.PEOPLE, 2))
    subject = people if intention == STYLE else other
    start = f"{_opening(draw)}the {subject} {draw.choice(words.LIKES)[1]} the {_place(topic, draw)}, and "
    return Edit(start, f"the {people}", "they", f" {draw.choice(words.DOES)} there{_ending(draw)}.")


def from_pronoun(topic: Topic, intention: str, draw: random.Random) -> Edit:
    """They -> the cooks. Of one of two groups that were named it says which (clarity); otherwise somebody else now
    does it (meaning).
    """
    people, other, third = (pair[1] for pair in draw.sample(words.PEOPLE, 3))
    groups = [other, people if intention == CLARITY else third]
    draw.shuffle(groups)
    start = f"the {groups[0]} met the {groups[1]} near the {_place(topic, draw)}, and "
    return Edit(start, "they", f"the {people}", f" {draw.choice(words.DOES)} there{_ending(draw)}.")


def degree(topic: Topic, intention: str, draw: random.Random) -> Edit:
    """Very taken out. Written twice it was a slip (fluency); beside a word without degrees it says nothing (clarity);
    otherwise the statement is now weaker (meaning).
    """
    word = draw.choice(words.DEGREES)
    adjective = draw.choice(words.ABSOLUTE if intention == CLARITY else words.GRADED)
    start = f"{_opening(draw)}the {_place(topic, draw)} of the {_people(draw)} is "
    return Edit(start + (f"{word} " if intention == FLUENCY else ""), f"{word} ", "", f"{adjective}{_ending(draw)}.")


def negation(topic: Topic, intention: str, draw: random.Random) -> Edit:
    """Not put in or taken out. If the sentence before says so, the two now agree (coherence); otherwise the passage
    says the contrary of what it said (meaning).
    """
    pair, unrelated = draw.sample(words.OPPOSITES, 2)
    state, opposite = pair if draw.random() < 0.5 else pair[::-1]
    put_in = draw.random() < 0.5
    said = opposite if put_in else state
    said_before = draw.choice(unrelated) if intention == MEANING else state
    start = f"the {_place(topic, draw)} is {said_before}{_ending(draw)}. the {_people(draw)} see that it is "
    return Edit(start, "" if put_in else "not ", "not " if put_in else "", f"{said}.")


def sense(topic: Topic, intention: str, draw: random.Random) -> Edit:
    """An adjective replaced by one that means the same beside some nouns (style) and another thing beside others
    (meaning).
    """
    old, new, alike, different = draw.choice(words.SENSES)
    noun = draw.choice(alike if intention == STYLE else different)
    start = f"{_opening(draw)}the {_people(draw)} of the {_place(topic, draw)} {draw.choice(words.LIKES)[1]} the "
    return Edit(start, old, new, f" {noun}{_ending(draw)}.")


def article(topic: Topic, intention: str, draw: random.Random) -> Edit:
    """A -> the. In front of "first" or "same" it mends a slip (fluency); of a thing that was named it says that it is
    that one (coherence); otherwise it is now a certain one (meaning).
    """
    noun, other = draw.sample(words.NOUNS, 2)
    named = noun if intention == COHERENCE else draw.choice((noun, other)) if intention == FLUENCY else other
    start = f"near the {_place(topic, draw)} stands a {named}. the {_people(draw)} {draw.choice(words.LIKES)[1]} "
    rank = f" {draw.choice(words.RANKS)}" if intention == FLUENCY else ""
    return Edit(start, "a", "the", f"{rank} {noun}{_ending(draw)}.")


#: Mean number of revisions of a document, by family and intention.
FAMILIES: list[tuple[Family, dict[str, float]]] = [
    (possessive, {FLUENCY: 3.0, MEANING: 1.6}),
    (tense, {FLUENCY: 3.0, MEANING: 1.6}),
    (fact, {COHERENCE: 2.6, MEANING: 1.4}),
    (term, {COHERENCE: 3.0, STYLE: 3.0}),
    (detail, {CLARITY: 3.2, MEANING: 1.4}),
    (to_pronoun, {STYLE: 2.2, MEANING: 1.0}),
    (from_pronoun, {CLARITY: 2.4, MEANING: 1.2}),
    (degree, {FLUENCY: 1.8, CLARITY: 2.4, MEANING: 1.0}),
    (negation, {COHERENCE: 2.0, MEANING: 1.4}),
    (sense, {STYLE: 3.0, MEANING: 1.8}),
    (article, {COHERENCE: 1.8, FLUENCY: 1.6, MEANING: 1.0}),
]


def _place(topic: Topic, draw: random.Random) -> str:
    return topic.place if draw.random() < 0.3 else "house"


def _people(draw: random.Random) -> str:
    return draw.choice(words.PEOPLE)[1]


def _opening(draw: random.Random) -> str:
    return draw.choice(words.OPENINGS) if draw.random() < 0.3 else ""


def _ending(draw: random.Random) -> str:
    return draw.choice(words.ENDINGS) if draw.random() < 0.4 else ""


def _finish(text: str) -> str:
    return ". ".join(sentence[0].upper() + sentence[1:] for sentence in text.split(". "))
