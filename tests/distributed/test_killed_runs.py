"""Runs in two processes of which one, or all, are killed: continued, they end with the same bytes."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from layerselect import LayerSelectError

from tests.distributed.forked import fork_ranks
from tests.distributed.runs import as_launched, command, intent, killed_after, made
from tests.helpers.kill_and_resume import digest, first_difference

PROCESSES = 2
RUN: dict[str, Any] = {"epochs": 2, "batch_size": 8, "save_steps": 3, "lora_dropout": 0.1, "optim": "auto"}
#: Who is killed after the seventh of eight steps, by engine: what follows is the rest of the second epoch.
KILLED: dict[str, tuple[int, ...]] = {"ddp": (1,), "fsdp": (0, 1)}


def whole(folder: Path) -> None:
    """The runs that nobody kills."""
    with as_launched() as rank:
        place = made(folder, rank)
        for engine in KILLED:
            intent(place, f"{engine}-whole", fsdp=engine == "fsdp", **RUN)


def killed(folder: Path) -> dict[str, Any]:
    """How the processes of each run have ended, and ended again when they were started to continue."""
    place, found = folder / "runs", {}
    for engine, ranks in KILLED.items():
        out = f"{engine}-killed"
        settings = {**RUN, **({"fsdp": True} if engine == "fsdp" else {})}

        def die(out: str = out, settings: dict[str, Any] = settings, ranks: tuple[int, ...] = ranks) -> int:
            killed_after(ranks, 7)
            return command(place, out, **settings)

        ended = fork_ranks(PROCESSES, die, folder / out)
        shutil.copytree(place / f"{out}.partial", place / f"{engine}-left.partial")
        resumed = partial(command, place, out, "--resume", **settings)
        found[engine] = ended, fork_ranks(PROCESSES, resumed, folder / f"{out}-again")
    return found


CHECKS, LAUNCHES = [whole], [killed]


def said(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("layerselect: ")]


@pytest.mark.parametrize("engine", KILLED)
def test_killed_and_resumed_they_end_with_the_same_bytes(returned, launched, shared_folder, engine):
    returned(whole)
    ended, again = launched(killed)[engine]
    dead = [rank for rank in range(PROCESSES) if ended[rank][0] == -9]
    assert dead == list(KILLED[engine])
    for rank in {*range(PROCESSES)} - {*dead}:
        status, text = ended[rank]
        assert status == 2 and len(said(text)) == 1 and "same command and --resume" in said(text)[0]
    assert [(status, said(text)) for status, text in again] == [(0, [])] * PROCESSES, again
    assert sum(text.count("Results") for _, text in again) == 1
    place = shared_folder / "runs"
    ours, theirs = place / f"{engine}-killed", place / f"{engine}-whole"
    assert digest(ours) == digest(theirs), first_difference(ours, theirs)
    assert not {path.name for path in place.iterdir() if path.name.startswith((f".{engine}", f"{engine}-killed."))}


def test_a_run_is_resumed_by_as_many_processes(launched, shared_folder):
    launched(killed)
    with pytest.raises(LayerSelectError, match="has 2 processes, not 1: start as many"):
        intent(shared_folder / "runs", "ddp-left", resume=True, **RUN)


def test_checkpoints_of_shards_are_whole(launched, shared_folder):
    launched(killed)
    names = {
        engine: {
            str(path.relative_to(place))
            for place in [shared_folder / "runs" / f"{engine}-left.partial" / "checkpoints"]
            for path in place.rglob("*")
        }
        for engine in KILLED
    }
    assert names["ddp"] == names["fsdp"] and "checkpoint-4/optimizer.pt" in names["fsdp"]
