"""``accelerate`` in two processes: a selector among what the accelerator saves and loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("accelerate", reason="accelerate is not installed")

from accelerate.utils import DistributedDataParallelKwargs

from tests.distributed.forked import Ended, fork_ranks
from tests.selector.test_accelerate import MODES, RULES, Run, assert_same

PROCESSES = 2
RUNS = [(mode, rule) for mode in MODES for rule in RULES]


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for mode, rule in RUNS:
        options = {"mode": mode, "rule": rule}
        options["kwargs_handlers"] = [DistributedDataParallelKwargs(find_unused_parameters=mode == "freeze")]
        place = str(folder / f"{mode}-{rule.partition(':')[0]}")
        run = Run(**options).train(1)
        run.accelerator.save_state(place)
        found[f"{mode} {rule}"] = run.train(1).facts()
        other = Run(**options, seed=1)
        other.accelerator.load_state(place)
        found[f"{mode} {rule}, resumed"] = other.train(1).facts()
        found["wrapped"] = type(other.model).__name__
    torch.save(found, folder / f"{dist.get_rank()}.pt")
    return 0


def trained(place: Path) -> list[Ended]:
    folder = place / "accelerate"
    folder.mkdir()
    return fork_ranks(PROCESSES, lambda: main(folder), place / "accelerate-rank")


LAUNCHES = [trained]


@pytest.fixture(scope="module")
def results(started: Callable) -> list[dict[str, Any]]:
    for status, said in started(PROCESSES).look_at_launch(trained):
        assert status == 0, said[-3000:]
    return [torch.load(started(PROCESSES).folder / "accelerate" / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.parametrize(("mode", "rule"), RUNS)
def test_both_processes_go_on_bit_for_bit(results, mode, rule):
    first, second = results
    name = f"{mode} {rule}"
    assert first["wrapped"] == "DistributedDataParallel"
    assert_same(first[name], second[name])
    for result in results:
        assert_same(result[f"{name}, resumed"], result[name])
    assert len(first[name]["mask"]) == 6 and first[name]["mask"].sum(1).min() < 6
