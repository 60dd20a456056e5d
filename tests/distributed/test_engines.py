"""Two processes under DDP and FSDP2 choose and learn what one process does over the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from layerselect.core import step as core_module

from tests.distributed.training import train

PROCESSES = 2

GATED = [
    {"rule": "variance", "optimizer": "adamw"},
    {"rule": "variance", "optimizer": "sgd", "score": "rms"},
    {"rule": "topk:k=3", "optimizer": "adamw-fused", "score": "sqrt_sum"},
    {"rule": "topk:k=2", "optimizer": "sgd"},
    {"rule": "random:k=2", "optimizer": "adamw", "seed": 3},
]
#: Each form of a score, a rule of the kernels and one of the host, both kinds of gates.
ON_DEVICE = [{**run, "steps": 6} for run in (*GATED[1:3], GATED[4], {"rule": "variance", "mode": "observe"})]
#: Mode ``freeze``, with probes and without.
FROZEN = [
    {"rule": "variance", "mode": "freeze", "probe_every": 5, "steps": 20},
    {"rule": "random:k=2", "mode": "freeze", "seed": 3, "steps": 10},
    {
        "rule": "topk:k=2",
        "mode": "freeze",
        "probe_every": 4,
        "interval": 2,
        "warmup": 1,
        "optimizer": "sgd",
        "steps": 20,
    },
]
FREEZABLE_DDP = {"find_unused_parameters": True}


def under_ddp(folder: Path) -> list[dict[str, Any]]:
    return [train("ddp", **run) for run in GATED]


def under_fsdp2(folder: Path) -> list[dict[str, Any]]:
    return [train("fsdp2", **run) for run in GATED]


def frozen_under_ddp(folder: Path) -> list[dict[str, Any]]:
    buckets = {**FREEZABLE_DDP, "gradient_as_bucket_view": True}
    return [train("ddp", wrapping=wrapping, **run) for run in FROZEN for wrapping in (FREEZABLE_DDP, buckets)]


def frozen_under_fsdp2(folder: Path) -> list[dict[str, Any]]:
    return [train(engine, **run) for run, engine in zip(FROZEN, ("fsdp2", "fsdp2", "fsdp2-whole"), strict=True)]


def accumulating(folder: Path) -> list[dict[str, Any]]:
    frozen = FROZEN[0]
    return [
        train("ddp", micro_batches=3, steps=6),
        train("fsdp2", micro_batches=3, steps=6),
        train("ddp", wrapping=FREEZABLE_DDP, **{**frozen, "micro_batches": 3, "steps": 6}),
        train("fsdp2", **{**frozen, "micro_batches": 3, "steps": 6}),
    ]


def on_the_device_core(folder: Path) -> list[dict[str, Any]]:
    """The core of a GPU, on the launchers' twins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core_module, "_has_kernels", lambda settings: True)
        return [train(engine, **run) for run in ON_DEVICE for engine in ("ddp", "fsdp2")]


CHECKS = [under_ddp, under_fsdp2, frozen_under_ddp, frozen_under_fsdp2, accumulating, on_the_device_core]


def alone(**run: Any) -> dict[str, Any]:
    return train("none", **{"mode": "gate", **run})


def check_same_in_all_processes(runs: list[dict[str, Any]]) -> None:
    """To the last bit."""
    for run in runs[1:]:
        for name in ("scores", "total_norm", "masks", "frequency"):
            torch.testing.assert_close(run[name], runs[0][name], rtol=0, atol=0, equal_nan=True)
        assert all(map(torch.equal, run["weights"], runs[0]["weights"]))
        assert run["trained"] == runs[0]["trained"]


def check_run(together: dict[str, Any], alone: dict[str, Any]) -> None:
    assert together["names"] == alone["names"]
    assert torch.equal(together["masks"], alone["masks"])
    assert together["trained"] == alone["trained"]
    assert torch.equal(together["frequency"], alone["frequency"])
    torch.testing.assert_close(together["scores"], alone["scores"], rtol=1e-5, atol=0, equal_nan=True)
    torch.testing.assert_close(together["total_norm"], alone["total_norm"], rtol=1e-5, atol=0)
    for a, b in zip(together["weights"], alone["weights"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("check", [under_ddp, under_fsdp2], ids=lambda check: check.__name__)
def test_gated_runs_are_those_of_one_process(returned, check):
    for run, *together in zip(GATED, *returned(check), strict=True):
        check_same_in_all_processes(together)
        check_run(together[0], alone(**run))
        assert together[0]["mode"] == "gate" and together[0]["capture"] == "step"
        assert len({tuple(mask) for mask in together[0]["masks"].tolist()}) > 3  # something was chosen


def test_frozen_runs_are_those_of_one_process(returned):
    pairs = [(run, runs) for run, runs in zip(FROZEN, zip(*returned(frozen_under_fsdp2), strict=True), strict=True)]
    twice = [run for run in FROZEN for _ in range(2)]
    pairs += [(run, runs) for run, runs in zip(twice, zip(*returned(frozen_under_ddp), strict=True), strict=True)]
    for run, together in pairs:
        check_same_in_all_processes(list(together))
        check_run(together[0], alone(**run))
        assert min(map(len, together[0]["trained"])) < 6  # something was frozen


def test_the_core_of_a_device_adds_up_between_sums_and_selection(returned):
    twice = [run for run in ON_DEVICE for _ in range(2)]
    for run, *together in zip(twice, *returned(on_the_device_core), strict=True):
        assert together[0]["on_device"]
        check_same_in_all_processes(together)
        check_run(together[0], alone(**run))


def test_accumulated_gradients_are_measured_once_they_are_averaged(returned):
    expected = [alone(**{**run, "micro_batches": 3, "steps": 6}) for run in ({}, {}, FROZEN[0], FROZEN[0])]
    for one, *together in zip(expected, *returned(accumulating), strict=True):
        check_same_in_all_processes(together)
        check_run(together[0], one)
