"""Corpora that nobody meant: files of every type with broken bytes, odd cells and odd shapes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from layerselect.data import load_corpus

from .mutate import break_bytes, break_value

ROWS = [
    {
        "doc_id": f"d{i % 7}",
        "before": f"It are so {i}.",
        "after": f"It is so {i}.",
        "label": ("style", "clarity")[i % 2],
    }
    for i in range(24)
]


def cases(rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Without end: one broken file a case."""
    path = Path("corpus.jsonl").resolve()
    while True:
        rows = [break_value(row, rng) if rng.random() < 0.2 else row for row in ROWS]
        content = "\n".join(json.dumps(row) for row in rows).encode()
        if rng.random() < 0.5:
            content = break_bytes(content, rng)

        def run(content: bytes = content) -> Any:
            path.write_bytes(content)
            return load_corpus(path)

        yield "jsonl", run
