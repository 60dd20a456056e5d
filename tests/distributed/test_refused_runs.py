"""Runs in two processes that cannot be: all of them say the same sentence, and nothing is left."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from layerselect import LayerSelectError
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.utils.launch import launched

from tests.distributed.runs import as_launched, intent, made, refusal
from tests.helpers import tiny_intent

PROCESSES = 2


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
            (place / "taken").mkdir()
            (place / "taken" / "file").touch()
        dist.barrier()
        if rank == 1:
            shutil.copytree(folder / "other", own / "own")
        patch.chdir(own)
        found = {
            "option": refusal(lambda: intent(place, "refused", batch_size=4 + rank)),
            "engine": refusal(lambda: intent(place, "refused", fsdp=rank == 1)),
            "data": refusal(lambda: intent(place, "refused", data="revisions.jsonl")),
            "model": refusal(lambda: _with_own_model(place)),
            "place": refusal(lambda: intent(place, "taken")),
            "types": refusal(lambda: intent(place, "refused", fsdp=True, adapter="none", dtype="bfloat16")),
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


CHECKS = [refusals]


def test_all_processes_are_refused_with_one_sentence(returned):
    first, second = returned(refusals)
    assert first == second
    assert first["option"].startswith("process 1 of 2 has --batch-size 5 and process 0 has 4: start every process")
    assert first["engine"].startswith("process 1 of 2 has --fsdp ")
    assert first["data"].startswith("process 1 of 2 has a corpus with the fingerprint ")
    assert first["model"].startswith("process 1 of 2 has a model with the fingerprint ")
    assert "is a folder that no run of layerselect made" in first["place"]
    assert "bfloat16 and float32 train: use --dtype float32, or an adapter" in first["types"]
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
