"""``--state-cache`` in two processes: one store of hidden states, from which both read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.distributed.runs import as_launched, check_equal, facts, intent, made

PROCESSES = 2
RUN: dict[str, Any] = {"mode": "freeze", "epochs": 2, "state_cache": "cached", "cut": "2", "keep": "last"}


def cached(folder: Path) -> list[str]:
    """A run whose store stays, and one whose store goes with it; in memory none would see what another has computed."""
    with as_launched() as rank:
        place = made(folder, rank)
        stores = {"cached-kept": str(place / "states"), "cached-passing": "none"}
        return [
            str(intent(place, out, batch_size=8, state_cache_store=store, state_cache_memory="0", **RUN))
            for out, store in stores.items()
        ]


CHECKS = [cached]


@pytest.fixture(scope="module")
def alone(started) -> Path:
    place = started(PROCESSES).folder / "runs"
    return intent(place, "cached-one", batch_size=16, state_cache_store=str(place / "states-of-one"), **RUN)


def entries(place: Path) -> set[str]:
    return {path.name for path in place.rglob("*.entry")}


@pytest.mark.parametrize("out", ["cached-kept", "cached-passing"])
def test_two_processes_equal_one(returned, shared_folder, alone, out):
    returned(cached)
    check_equal(shared_folder / "runs" / out, alone)


def test_each_state_is_written_once(returned, shared_folder, alone):
    returned(cached)
    place = shared_folder / "runs"
    assert entries(place / "states") == entries(place / "states-of-one")
    # Two that compute the same text at the same moment may both write it.
    once = facts(alone)["states_written_mb"]
    assert once <= facts(place / "cached-kept")["states_written_mb"] <= 2 * once


def test_what_is_passed_on_goes_with_the_run(returned, shared_folder, alone):
    """In its second epoch a process reads what the other one has computed in the first: alone each would compute more
    than it reads. How many texts both compute at the same moment depends on the machine.
    """
    returned(cached)
    kept, passing = (facts(shared_folder / "runs" / f"cached-{name}") for name in ("kept", "passing"))
    assert passing["states_read"] > kept["states_computed"] > 0
    files = {path.name for path in (shared_folder / "runs" / "cached-passing").iterdir()}
    assert files == {path.name for path in alone.iterdir()}
