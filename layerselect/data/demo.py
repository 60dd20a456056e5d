"""The demo corpus: sentences of the package's own, revised by rule.

Forty short documents of five sentences each (`demo_sentences.json`) and about 1,900 revisions of them, each
with one of IteraTeR's five intentions and in about its proportions. Document splits keep all revisions of a
sentence together, so a model is tested on sentences it has not seen.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from importlib import resources

from . import demo_edits
from .demo_edits import Edit
from .schema import RawCorpus, Revision

# Mean number of revisions of a sentence, by intention: unequal, as in real corpora.
PER_SENTENCE = {"fluency": 2.6, "clarity": 2.5, "meaning-changed": 2.1, "coherence": 1.7, "style": 1.1}
TWO_EDITS = 0.2
"""Share of the rows that hold two edits of their intention."""


@dataclass(frozen=True)
class Sentence:
    """A sentence of the demo: its text with all details, the span of each detail, how it follows."""

    text: str
    details: tuple[tuple[int, int], ...]
    relation: str


def read_documents() -> dict[str, list[Sentence]]:
    """The package's own documents: name -> sentences."""
    source = resources.files("layerselect.data").joinpath("demo_sentences.json").read_text(encoding="utf-8")
    return {name: [_parse(line) for line in lines] for name, lines in json.loads(source)["documents"].items()}


def make_demo(seed: int = 0) -> RawCorpus:
    """The demo corpus; the seed chooses the edits, the sentences are always the same."""
    raw = RawCorpus("demo")
    taken: set[tuple[str, str]] = set()
    for name, sentences in read_documents().items():
        for number, sentence in enumerate(sentences):
            # One generator per sentence: a changed sentence leaves the rows of all others as they are.
            draw = random.Random(f"{seed}/{name}/{number}")
            before = sentences[number - 1].text if number else ""
            after = sentences[number + 1].text if number + 1 < len(sentences) else ""
            for intention, mean in PER_SENTENCE.items():
                wanted = int(mean) + (draw.random() < mean % 1)
                for _ in range(wanted):
                    pair = _revise(sentence, intention, draw)
                    if pair is None or pair in taken or pair[0] == pair[1]:
                        continue
                    taken.add(pair)
                    row_id = f"{name}-{number + 1}-{len(raw.rows) + 1}"
                    raw.rows.append(Revision(row_id, name, *pair, [intention], "", before, after))
    raw.notes.append("made by the package from its own sentences, by rule: scores on it say nothing about real texts")
    return raw


def _parse(line: str) -> Sentence:
    """Reads a line of the sentence file: ``<cause>The clock [on the wall] stopped`` marks what a reviser may take
    out.
    """
    found = re.match(r"<(\w+)>", line)
    relation = found.group(1) if found else ""
    line = line[found.end() :] if found else line
    text, details = "", []
    for part in re.split(r"(\[[^]]*\])", line):
        if not part.startswith("["):
            text += part
            continue
        inner = part[1:-1]
        if inner.startswith(","):
            text = text.rstrip()
        # The space in front of a detail goes with it.
        start = len(text) - 1 if text.endswith(" ") else len(text)
        text += inner
        details.append((start, len(text)))
    return Sentence(text, tuple(details), relation)


def _revise(sentence: Sentence, intention: str, draw: random.Random) -> tuple[str, str] | None:
    """A (before, after) pair with the intention, or None where the sentence offers none."""
    text = sentence.text
    bare = next((span for span in sentence.details if draw.random() < 0.4), None)
    if bare and intention != "meaning-changed":
        text = text[: bare[0]] + text[bare[1] :]
    if intention in ("coherence", "style") and draw.random() < 0.35:
        swap = demo_edits.connective_swap(text, draw, sentence.relation)
        if swap and swap[2] == intention:
            return swap[:2]
    edits = _edits(text, intention, draw, sentence)
    if not edits:
        return None
    chosen = [demo_edits.pick(edits, draw)]
    rest = [edit for edit in edits if _apart(edit, chosen[0])]
    if rest and draw.random() < TWO_EDITS:
        chosen.append(demo_edits.pick(rest, draw))
    return demo_edits.apply(text, chosen)


def _edits(text: str, intention: str, draw: random.Random, sentence: Sentence) -> list[Edit]:
    if intention == "coherence":
        return demo_edits.coherence(text, draw, sentence.relation)
    if intention == "meaning-changed":
        details = [Edit(a, b, "", draw.choice(("before", "before", "after")), "detail") for a, b in sentence.details]
        return demo_edits.meaning(text, draw) + details
    family = {"fluency": demo_edits.fluency, "clarity": demo_edits.clarity, "style": demo_edits.style}[intention]
    return family(text, draw)


def _apart(one: Edit, other: Edit) -> bool:
    return one.stop < other.start or other.stop < one.start
