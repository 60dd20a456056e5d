"""Two processes as a launcher starts them: ``transformers.Trainer`` (DDP), and adapters in sharded blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.forked import Ended, fork_ranks
from tests.distributed.transformers_run import (
    CALLBACKS,
    CLIPPED,
    CLIPPED_CALLBACKS,
    ENGINES,
    EXAMPLES,
    main,
    train,
    train_clipped,
    train_sharded,
)

PROCESSES = 2

#: What "auto" is with two processes; in one it would be "freeze".
ALONE = {"mode": "gate"}


def trained(place: Path) -> list[Ended]:
    folder = place / "trainer"
    folder.mkdir()
    return fork_ranks(PROCESSES, lambda: main(folder), place / "trainer-rank")


LAUNCHES = [trained]


@pytest.fixture(scope="module")
def folder(started: Callable) -> Path:
    return started(PROCESSES).folder / "trainer"


@pytest.fixture(scope="module")
def results(started: Callable, folder: Path) -> list[dict[str, Any]]:
    for status, said in started(PROCESSES).look_at_launch(trained):
        assert status == 0, said[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


def check_same(one: dict[str, Any], other: dict[str, Any], exactly: bool) -> None:
    assert torch.equal(one["masks"], other["masks"])
    assert torch.equal(one["trained"], other["trained"])
    # AdamW's first steps make much of the last bits of tiny gradients; test_engines.py compares to 1e-5.
    rtol, atol = (0.0, 0.0) if exactly else (1e-3, 1e-4)
    for name in ("scores", "weights"):
        torch.testing.assert_close(one[name], other[name], rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", CALLBACKS)
def test_the_trainer_selects_what_one_process_would(results, folder, name):
    first, second = (result[name] for result in results)
    assert first["wrapped"] == "DistributedDataParallel"
    check_same(first, second, exactly=True)
    options = {**ALONE, **CALLBACKS[name]}
    alone = train(folder / f"{name}-alone", 1, **options)
    assert alone["wrapped"] != first["wrapped"] and alone["names"] == first["names"]
    assert first["mode"] == options["mode"]
    check_same(first, alone, exactly=False)
    assert first["masks"].sum(1).min() < 4


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_resumed_trainer_ends_where_the_other_ended(results, folder, name):
    assert (folder / name / "checkpoint-3" / "selector.safetensors").is_file()
    for result in results:
        check_same(result[name], result[f"{name}, resumed"], exactly=True)


@pytest.mark.parametrize("name", CALLBACKS)
def test_one_process_goes_on_where_two_have_stopped(results, folder, name):
    options = {**ALONE, **CALLBACKS[name]}
    alone = train(folder / f"{name}-alone-resumed", 1, resume=folder / name / "checkpoint-3", **options)
    check_same(results[0][name], alone, exactly=False)


@pytest.mark.parametrize("capture", ["backward", "step"])
@pytest.mark.parametrize("name", CLIPPED_CALLBACKS)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_clipped_was_measured_before(results, folder, engine, name, capture):
    first, second = (result[f"clipped {engine} {name}"] for result in results)
    assert first["wrapped"] == {"ddp": "DistributedDataParallel", "fsdp2": "FSDPPeftModel"}[engine]
    check_same(first, second, exactly=True)
    assert min(first["norms"]) > CLIPPED["max_grad_norm"]
    alone = train_clipped(folder / "alone", 1, engine, **{**CLIPPED_CALLBACKS[name], "capture": capture})
    assert torch.equal(first["masks"], alone["masks"]) and torch.equal(first["trained"], alone["trained"])
    torch.testing.assert_close(first["scores"], alone["scores"], rtol=1e-5, atol=1e-7)
    assert 0 < int(first["masks"].sum()) < first["masks"].numel()


@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_adapters_in_sharded_blocks(results, mode):
    first, second = (result[f"sharded {mode}"] for result in results)
    check_same(first, second, exactly=True)
    check_same(first, train_sharded(False, mode), exactly=False)


@pytest.mark.parametrize(("engine", "mode"), EXAMPLES)
def test_the_example_learns_and_selects(results, engine, mode):
    runs = [result[f"example {engine}"] for result in results]
    assert torch.equal(runs[0]["mask"], runs[1]["mask"])
    assert runs[0]["losses"] != runs[1]["losses"]  # batches of their own
    for run in runs:
        assert sum(run["losses"][-5:]) < 0.95 * sum(run["losses"][:5])
        assert run["mode"] == ("gate" if mode == "auto" else mode)
        assert 0 < int(run["mask"].sum()) < run["mask"].numel()
