"""Fills a shard with entries that take a while to write, and reads it back, each in a process of its own if need be."""

from __future__ import annotations

from pathlib import Path

from layerselect.state_cache.store import StateStore
from torch import Tensor

from tests.state_cache.entries import FACTS, FINGERPRINT, key_of, numbered, same

COUNT = 40


def large(number: int) -> tuple[Tensor, ...]:
    """An entry of 256 KiB."""
    return numbered(number, 128, 512)


def fill(folder: Path, rounds: int) -> None:
    """Writes the entries 0 to ``COUNT - 1``, ``rounds`` times."""
    with StateStore(folder, memory=0) as store:
        shard = store.shard(FINGERPRINT, FACTS)
        for _ in range(rounds):
            for number in range(COUNT):
                shard.put(key_of(number), large(number))


def read_all(folder, make=numbered, count=COUNT) -> list[bool]:
    """For each entry, whether it is there. It fails on a wrong one."""
    with StateStore(folder, memory=0) as store:
        shard = store.shard(FINGERPRINT, FACTS)
        found = [shard.get(key_of(number)) for number in range(count)]
        assert shard.damaged == 0
    assert all(parts is None or same(parts, make(number)) for number, parts in enumerate(found))
    return [parts is not None for parts in found]


def leftovers(folder) -> list[Path]:
    return sorted(Path(folder).rglob("*.partial"))
