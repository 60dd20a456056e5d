"""``layerselect intent`` and ``revise`` in two processes against one over the same batches, under DDP and FSDP2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.runs import as_launched, check_equal, facts, intent, made, revise

PROCESSES = 2
WRITES = {"model": "llama", "mode": "gate", "head": "generate"}
#: Runs of intent by name: the settings, and the batch of one process of two. There are 60 training examples.
INTENT: dict[str, tuple[dict[str, Any], int]] = {
    "classifier": ({"mode": "gate", "epochs": 1, "class_weights": "balanced", "offset": "words"}, 8),
    # The last of the batches has nothing for the second process.
    "frozen": ({"mode": "freeze", "epochs": 1, "accumulate": 2, "probe_every": 2, "rule": "topk:k=1", "blend": 0.3}, 7),
    # Only one of the processes has an example whose labels are no answer that the model is asked about.
    "sets": ({"corpus": "sets", **WRITES, "max_steps": 2, "eval_batch_size": 3}, 8),
    "words": ({**WRITES, "epochs": 1, "class_weights": "sqrt"}, 14),
}
REVISE: dict[str, Any] = {
    "mode": "gate",
    "epochs": 1,
    "max_length": 64,
    "eval_limit": 5,
    "max_new_tokens": 6,
    "lr": 0.05,
    "edit_weight": 3.0,
    "predictor_epochs": 1.0,
}
REVISE_BATCH = 7
#: Which are made under which engine.
MADE = [("classifier", "ddp"), ("frozen", "ddp"), ("frozen", "fsdp"), ("sets", "fsdp"), ("words", "fsdp")]
ENGINES = ("ddp", "fsdp")


def shared_intent(folder: Path) -> list[str]:
    with as_launched() as rank:
        place = made(folder, rank)
        runs = []
        for name, engine in MADE:
            settings, batch = INTENT[name]
            runs.append(intent(place, f"{engine}-{name}", batch_size=batch, fsdp=engine == "fsdp", **settings))
    return [str(run) for run in runs]


def shared_revise(folder: Path) -> list[str]:
    with as_launched() as rank:
        place = made(folder, rank)
        sizes = {"batch_size": REVISE_BATCH, "predictor_batch_size": 15}
        return [str(revise(place, f"{each}-revise", fsdp=each == "fsdp", **sizes, **REVISE)) for each in ENGINES]


CHECKS = [shared_intent, shared_revise]


@pytest.fixture(scope="module")
def one_process(started) -> dict[str, Path]:
    """The same runs in one process."""
    place = started(PROCESSES).folder / "runs"
    runs = {
        name: intent(place, f"one-{name}", batch_size=2 * batch, **settings)
        for name, (settings, batch) in INTENT.items()
    }
    sizes = {"batch_size": 2 * REVISE_BATCH, "predictor_batch_size": 30}
    return {**runs, "revise": revise(place, "one-revise", **sizes, **REVISE)}


@pytest.mark.parametrize(("name", "engine"), MADE)
def test_two_processes_equal_one(returned, shared_folder, one_process, name, engine):
    first, second = returned(shared_intent)
    assert first == second
    run = shared_folder / "runs" / f"{engine}-{name}"
    check_equal(run, one_process[name])
    assert (facts(run)["processes"], facts(run)["sharded"]) == (PROCESSES, engine == "fsdp")


@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_revise_as_one(returned, shared_folder, one_process, engine):
    first, second = returned(shared_revise)
    assert first == second
    run = shared_folder / "runs" / f"{engine}-revise"
    check_equal(run, one_process["revise"])
    assert [facts(each)["sharded"] for each in (run, run / "predictor")] == [engine == "fsdp"] * 2


def test_the_folder_says_how_many_there_were(returned, shared_folder):
    returned(shared_intent)
    assert json.loads((shared_folder / "runs/ddp-classifier/config.json").read_text())["processes"] == PROCESSES


def test_what_shards_have_learned_is_saved_as_by_one_process(returned, shared_folder, one_process):
    """Nothing in the adapter speaks of shards."""
    returned(shared_intent)
    for name in ("frozen", "words"):
        ours, theirs = shared_folder / "runs" / f"fsdp-{name}" / "adapter", one_process[name] / "adapter"
        assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in theirs.iterdir())
        for file in ("adapter_config.json", "layerselect.json"):
            text = (ours / file).read_text()
            assert text.replace(f"fsdp-{name}", f"one-{name}") == (theirs / file).read_text()
