"""Corpora as they should be: what the cases of part_corpora break."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import datasets

ROWS: list[dict[str, Any]] = [
    {
        "doc_id": f"d{i % 7}",
        "before": f"It are so {i}.",
        "after": f"It is so {i}.",
        "label": ("style", "clarity")[i % 2],
    }
    for i in range(24)
]
ITERATER = [
    {
        "before_sent": f"It are {i}.",
        "after_sent": f"It is {i}.",
        "labels": "fluency",
        "doc_id": str(i % 5),
        "revision_depth": 1,
    }
    for i in range(12)
]
DOCUMENTS = [
    {
        "doc_id": str(i),
        "revision_depth": 1,
        "before_revision": f"It are {i}.",
        "after_revision": f"It is {i}.",
        "edit_actions": [
            {
                "type": "R",
                "before": "are",
                "after": "is",
                "start_char_pos": 3,
                "end_char_pos": 6,
                "major_intent": "fluency",
            }
        ],
        "sents_char_pos": [0],
    }
    for i in range(8)
]
ARGREVISION = [
    {
        "essay_ids": i % 4,
        "old_sentence_ids": i,
        "new_sentence_ids": i,
        "old_sentences": f"A {i}.",
        "new_sentences": f"B {i}.",
        "purpose_labels": "relevant",
    }
    for i in range(12)
]
ARXIVEDITS = {
    str(i): {
        "sentence-1": f"It are {i} .",
        "sentence-2": f"It is {i} .",
        "arxiv-id": f"p{i % 4}",
        "sentence-1-level": "1",
        "edits-combination-0": {
            "0": {"type": "Substitute", "intention": "Content", "sentence-1-token-indices": [1, 2]}
        },
    }
    for i in range(10)
}
SETS = (ROWS, ITERATER, DOCUMENTS, ARGREVISION)


def saved_dataset() -> dict[str, bytes]:
    features = datasets.Features(
        {
            "before": datasets.Value("string"),
            "after": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["a", "b"]),
        }
    )
    rows = {"before": [f"x{i}" for i in range(9)], "after": ["y"] * 9, "label": [i % 2 for i in range(9)]}
    found = datasets.Dataset.from_dict(rows, features=features)
    place = Path("saved.once").resolve()
    datasets.DatasetDict({"train": found, "test": found}).save_to_disk(place)
    files = {
        path.relative_to(place).as_posix(): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()
    }
    shutil.rmtree(place)
    return files
