"""A small corpus that every family is trained on."""

from __future__ import annotations

import json
import random
from pathlib import Path


def write_corpus(path: Path) -> Path:
    """Revisions that are easy to tell apart, of unlike lengths; a few are longer than any position of the small
    models.
    """
    draw = random.Random(7)
    subjects = ["The committee", "A student", "The old bridge", "My neighbour"]
    verbs, objects = (
        ["shows", "keeps", "moves", "opens"],
        ["the result", "a small boat", "every letter", "a plan for the long winter"],
    )
    rows = []
    for number in range(40):
        subject, verb, thing = draw.choice(subjects), draw.choice(verbs), draw.choice(objects)
        label = ("fluency", "clarity", "style")[number % 3]
        after = f"{subject} {verb} {thing}."
        before = {
            "fluency": f"{subject} {verb[:-1]} {thing}.",
            "clarity": f"It is the case that {subject.lower()} {verb} {thing}.",
            "style": f"{subject} {verb} {thing} indeed.",
        }[label]
        if number in (6, 10):
            before, after = " ".join([before] * 9), " ".join([after] * 9)
        rows.append({"id": f"r{number}", "doc_id": f"d{number % 16}", "before": before, "after": after, "label": label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
