"""What processes that are watched or killed do: fill a shelf with entries that take a while to write."""

from __future__ import annotations

from pathlib import Path

from layerselect.trunk.store import TrunkStore
from torch import Tensor

from tests.trunk.entries import FACTS, FINGERPRINT, key_of, numbered

COUNT = 40


def large(number: int) -> tuple[Tensor, ...]:
    """An entry of 256 KiB."""
    return numbered(number, 128, 512)


def fill(folder: Path, rounds: int) -> None:
    """Writes the entries 0 to ``COUNT - 1``, ``rounds`` times."""
    with TrunkStore(folder, memory=0) as store:
        shelf = store.shelf(FINGERPRINT, FACTS)
        for _ in range(rounds):
            for number in range(COUNT):
                shelf.put(key_of(number), large(number))
