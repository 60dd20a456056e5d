"""``layerselect intent`` and ``revise`` in two processes against one over the same batches; resumed; refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from layerselect import LayerSelectError
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.utils.launch import launched
from safetensors.numpy import load_file

from tests.distributed.conftest import PATIENCE, ROOT
from tests.distributed.runs import SETTINGS, Stopped, as_launched, intent, made, refusal, revise, stopping_after
from tests.helpers import tiny_intent
from tests.helpers.kill_and_resume import digest, first_difference

PROCESSES = 2
#: Runs of intent by name: the settings, and the batch of one process of two. There are 60 training examples.
INTENT: dict[str, tuple[dict[str, Any], int]] = {
    "classifier": ({"mode": "gate", "epochs": 2, "class_weights": "balanced"}, 8),
    # The last of the batches has nothing for the second process.
    "frozen": ({"mode": "freeze", "epochs": 1, "accumulate": 2, "probe_every": 2, "rule": "topk:k=1"}, 7),
    "words": ({"model": "llama", "mode": "gate", "head": "generate", "epochs": 1, "class_weights": "sqrt"}, 14),
}
REVISE: dict[str, Any] = {
    "mode": "gate",
    "epochs": 1,
    "max_length": 64,
    "eval_limit": 5,
    "max_new_tokens": 6,
    "lr": 0.05,
    "predictor_epochs": 1.0,
}
REVISE_BATCH = 7
RESUMED: dict[str, Any] = {"epochs": 2, "batch_size": 8, "save_steps": 3, "lora_dropout": 0.1, "optim": "auto"}


def shared_intent(folder: Path) -> list[str]:
    with as_launched() as rank:
        place = made(folder, rank)
        runs = [
            intent(place, f"two-{name}", batch_size=batch, **settings) for name, (settings, batch) in INTENT.items()
        ]
    return [str(run) for run in runs]


def shared_revise(folder: Path) -> str:
    with as_launched() as rank:
        return str(revise(made(folder, rank), "two-revise", batch_size=REVISE_BATCH, predictor_batch_size=15, **REVISE))


def resumed(folder: Path) -> list[str]:
    with as_launched() as rank:
        place = made(folder, rank)
        intent(place, "whole", **RESUMED)
        with pytest.raises(Stopped), stopping_after(5):
            intent(place, "stopped", **RESUMED)
        dist.barrier()
        if rank == 0:
            shutil.copytree(place / "stopped.partial", place / "left.partial")
        intent(place, "stopped", resume=True, **RESUMED)
        return sorted(path.name for path in place.iterdir())


def refusals(folder: Path) -> dict[str, str]:
    """What each process says of runs that cannot be; the working folder is another one in each."""
    with as_launched() as rank, pytest.MonkeyPatch.context() as patch:
        place = made(folder, rank)
        own = folder / f"own-{rank}"
        own.mkdir()
        tiny_intent.corpus_file(own, documents=12 + rank)
        if rank == 0:  # transformers saves in the first process only
            shutil.copytree(place / "bert", own / "own")
            tiny_intent.save_bert(folder / "other", seed=1)
        dist.barrier()
        if rank == 1:
            shutil.copytree(folder / "other", own / "own")
        patch.chdir(own)
        found = {
            "option": refusal(lambda: intent(place, "refused", batch_size=4 + rank)),
            "data": refusal(lambda: intent(place, "refused", data="revisions.jsonl")),
            "model": refusal(lambda: _with_own_model(place)),
            "place": refusal(lambda: intent(place, "whole")),
        }
        with pytest.MonkeyPatch.context() as broken:
            if rank == 1:
                broken.setattr("layerselect.tasks.intent.task.cover", _fails)
            found["one"] = refusal(lambda: intent(place, "refused"))
        found["left"] = ", ".join(sorted(path.name for path in place.iterdir() if path.name.startswith("refused")))
    return found


def _with_own_model(place: Path) -> Path:
    config = IntentConfig(data=str(place / "revisions.jsonl"), model="own", out=str(place / "refused"), device="cpu")
    return run_intent(config).folder


def _fails(*args: Any) -> None:
    raise LayerSelectError("this process lacks something")


CHECKS = [shared_intent, shared_revise, resumed, refusals]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def alike(mine: Any, other: Any) -> bool:
    if isinstance(other, dict):
        return mine.keys() == other.keys() and all(alike(mine[key], value) for key, value in other.items())
    return mine == (pytest.approx(other, rel=1e-4, abs=1e-5) if isinstance(other, float) else other)


def check_equal(two: Path, one: Path) -> None:
    """As far as sums in another order allow."""
    for name in ("adapter/adapter_model.safetensors", "history.safetensors"):
        ours, theirs = load_file(two / name), load_file(one / name)
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            if value.dtype == np.float32:
                np.testing.assert_allclose(ours[key], value, rtol=1e-3, atol=1e-5)
            else:
                assert np.array_equal(ours[key], value)
    for name in ("metrics.jsonl", "training.jsonl", "predictions.jsonl"):
        ours, theirs = lines(two / name), lines(one / name)
        assert len(ours) == len(theirs) > 0
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.keys() == other.keys()
            for key, value in other.items():
                assert alike(mine[key], value), (name, key, mine[key], value)


@pytest.mark.parametrize("name", INTENT)
def test_two_processes_equal_one(returned, shared_folder, name):
    first, second = returned(shared_intent)
    assert first == second
    settings, batch = INTENT[name]
    place = shared_folder / "runs"
    check_equal(place / f"two-{name}", intent(place, f"one-{name}", batch_size=2 * batch, **settings))


def test_two_processes_revise_as_one(returned, shared_folder):
    first, second = returned(shared_revise)
    place = shared_folder / "runs"
    assert first == second == str(place / "two-revise")
    alone = revise(place, "one-revise", batch_size=2 * REVISE_BATCH, predictor_batch_size=30, **REVISE)
    check_equal(place / "two-revise", alone)


def test_the_folder_says_how_many_there_were(returned, shared_folder):
    returned(shared_intent)
    assert json.loads((shared_folder / "runs/two-classifier/config.json").read_text())["processes"] == PROCESSES


def test_stopped_and_resumed_they_end_with_the_same_bytes(returned, shared_folder):
    names = returned(resumed)[0]
    place = shared_folder / "runs"
    assert digest(place / "stopped") == digest(place / "whole"), first_difference(place / "stopped", place / "whole")
    assert not {name for name in names if name.startswith((".", "stopped.", "whole."))}


def launch(place: Path, environment: dict[str, str], *more: str) -> tuple[int, list[str], str]:
    """Starts two processes of the run ``killed``; gives the launcher's status, the errors, and what was shown."""
    settings = {**SETTINGS, **RESUMED, "data": place / "revisions.jsonl", "model": place / "bert"}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["tests.distributed.killed_run", "intent", "--out", str(place / "killed"), *options, *more]
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=PATIENCE, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if line.startswith("layerselect: ")]
    return done.returncode, said, done.stdout


def test_one_is_killed_and_the_run_goes_on(returned, shared_folder, process_environment):
    returned(resumed)
    place = shared_folder / "runs"
    status, said, _ = launch(place, {**process_environment, "KILLED": "1:5"})
    assert status != 0
    assert len(said) == 1 and "continue with the same command and --resume" in said[0]
    status, said, shown = launch(place, process_environment, "--resume")
    assert (status, said, shown.count("Results")) == (0, [], 1)
    assert digest(place / "killed") == digest(place / "whole"), first_difference(place / "killed", place / "whole")
    assert not {path.name for path in place.iterdir() if path.name.startswith((".killed", "killed."))}


def test_a_run_is_resumed_by_as_many_processes(returned, shared_folder):
    returned(resumed)
    with pytest.raises(LayerSelectError, match="has 2 processes, not 1: start as many"):
        intent(shared_folder / "runs", "left", resume=True, **RESUMED)


def test_all_processes_are_refused_with_one_sentence(returned, shared_folder):
    first, second = returned(refusals)
    assert first == second
    assert first["option"].startswith("process 1 of 2 has --batch-size 5 and process 0 has 4: start every process")
    assert first["data"].startswith("process 1 of 2 has a corpus with the fingerprint ")
    assert first["model"].startswith("process 1 of 2 has a model with the fingerprint ")
    assert "holds an earlier run" in first["place"]
    assert first["one"] == "this process lacks something"
    assert first["left"] == ""


def test_a_process_alone_is_not_asked_for_others(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    for count in ("", "x", "1"):
        monkeypatch.setenv("WORLD_SIZE", count)
        assert launched() == 1
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched() == 1
