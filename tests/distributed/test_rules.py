"""Rules that measure for themselves: two processes choose what one process over the whole batch chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from layerselect import Ablation, FastSelector, Ist

from tests.distributed.training import loss_of, ranks, train, whole, wrap
from tests.helpers.models import plain

PROCESSES = 2
ENGINES = ["ddp", "fsdp2"]

RUNS = [
    {"rule": "cosine", "mode": "gate"},
    {"rule": "weight-norm", "mode": "gate", "optimizer": "sgd"},
    {"rule": 'probe-once:steps=3;base="variance"', "mode": "gate"},
    {"rule": 'block-cyclic:interval=2;order="random"', "mode": "gate", "seed": 4},
]
FREEZABLE = {"ddp": {"find_unused_parameters": True}, "fsdp2": {}, "none": {}}


def probed_loss(model, number):
    return loss_of(model, 1000 + number)


def train_ist(engine: str, mode: str) -> dict[str, Any]:
    model = wrap(engine, plain(), **FREEZABLE[engine])
    rule = Ist(update_every=2, rate=200.0, train_fraction=0.5, seed=2)
    rule.ablation = Ablation(model, probed_loss, [0, 1, 2])
    selector = FastSelector(model, rule, mode=mode)
    stepper = torch.optim.SGD(selector.trainable_parameters(), lr=0.3)
    selector.attach(stepper)
    masks = []
    for step in range(9):
        loss_of(model, step).backward()
        selector.step()
        stepper.step()
        stepper.zero_grad()
        masks.append(selector.mask.clone())
    return {
        "masks": torch.stack(masks),
        "values": rule.state_dict()["values"],
        "weights": [whole(p) for p in model.parameters()],
    }


def measuring(folder: Path) -> list[dict[str, Any]]:
    return [train(engine, **{"steps": 8, **run}) for run in RUNS for engine in ENGINES]


def probing(folder: Path) -> list[dict[str, Any]]:
    return [train_ist(engine, mode) for engine in ENGINES for mode in ("gate", "freeze")]


CHECKS = [measuring, probing]


def same(theirs: dict[str, Any], expected: dict[str, Any]) -> None:
    assert torch.equal(theirs["masks"], expected["masks"])
    for a, b in zip(theirs["weights"], expected["weights"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_what_they_measure_is_that_of_the_whole_batch(returned):
    first, second = returned(measuring)
    for number, (ours, others) in enumerate(zip(first, second, strict=True)):
        assert torch.equal(ours["masks"], others["masks"])
        same(ours, train("none", **{"steps": 8, **RUNS[number // len(ENGINES)]}))
    assert len({tuple(row.tolist()) for row in first[0]["masks"]}) > 1


@pytest.mark.parametrize("mode", ["gate", "freeze"])
@pytest.mark.parametrize("engine", ENGINES)
def test_probes_are_averaged(returned, engine, mode):
    at = ENGINES.index(engine) * 2 + ("gate", "freeze").index(mode)
    first, second = (outcome[at] for outcome in returned(probing))
    assert torch.equal(first["values"], second["values"]) and first["values"].any()
    expected = train_ist("none", mode)
    torch.testing.assert_close(first["values"], expected["values"], rtol=1e-3, atol=1e-6)
    same(first, expected)
    assert torch.equal(first["masks"], second["masks"])


def test_each_process_probed_its_own_share(returned):
    """Without the average the two would have learned different values: the shares of a batch have different losses."""
    assert ranks() == (0, 1) and not dist.is_initialized()
    model = plain()
    assert loss_of(model, 1000, 0, 2) != loss_of(model, 1000, 1, 2)
