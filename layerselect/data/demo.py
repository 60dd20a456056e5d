"""The demo corpus: short passages, revised by rule, in which what stands around an edit decides what it is for.

It shows what a trained model is for. In each of eleven families of edits the same words are changed with different
intentions, as in real revisions:

* "their" -> "its" mends a slip where the sentence names nobody whom "their" could mean (fluency), and names another
  owner where it does (meaning-changed);
* "in the morning" is taken out because the sentence began with "every morning" (clarity), or with a loss to the reader
  (meaning-changed);
* "movies" -> "films" keeps to the word of the sentence before (coherence), or is a matter of taste (style).

So a model of the changed words alone, however good, stays far below one that reads the passage. Each document has a
topic, whose words stand in no other, and document splits keep a topic in one split.
"""

from __future__ import annotations

import random

from . import demo_words
from .demo_edits import FAMILIES, Topic
from .schema import RawCorpus, Revision

_TRIES = 20


def topics() -> list[Topic]:
    """The topic of each document."""
    return [Topic(*words.split()) for words in demo_words.TOPICS.split("|")]


def make_demo(seed: int = 0) -> RawCorpus:
    """The demo corpus; the seed chooses the passages and their edits, the topics are always the same."""
    raw = RawCorpus("demo")
    taken: set[tuple[str, str]] = set()
    for topic in topics():
        # One generator per document: a changed document leaves the rows of all others as they are.
        draw = random.Random(f"{seed}/{topic.place}")
        made = _document(topic, draw, taken)
        for number, (before, after, intention) in enumerate(made):
            ahead = made[number - 1][1] if number else ""
            behind = made[number + 1][1] if number + 1 < len(made) else ""
            row_id = f"{topic.place}-{number + 1}"
            raw.rows.append(Revision(row_id, topic.place, before, after, [intention], "", ahead, behind))
    raw.notes.append("made by the package from its own sentences, by rule: scores on it say nothing about real texts")
    return raw


def _document(topic: Topic, draw: random.Random, taken: set[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Its passages as (before, after, intention), in an order of chance."""
    made = []
    for family, shares in FAMILIES:
        for intention, mean in shares.items():
            wanted = int(mean) + (draw.random() < mean % 1)
            for _ in range(wanted):
                sides = family(topic, intention, draw).sides()
                if sides in taken:
                    continue
                taken.add(sides)
                made.append((*sides, intention))
    draw.shuffle(made)
    return made
