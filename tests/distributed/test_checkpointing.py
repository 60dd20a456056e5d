"""Mode ``freeze`` with gradient checkpointing under DDP and FSDP2: what one process does without it, and no more
recomputation.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from layerselect import FastSelector
from layerselect.layers.find import split_parameters
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.training import ranks, whole
from tests.helpers.checkpointed import build, enable, recomputed
from tests.helpers.models import VOCABULARY

PROCESSES = 2
STEPS = 5
#: The reentrant kind hides parameters from DDP, which then cannot tell which gradients to wait for; torch documents so.
RUNS = [("ddp", False), ("fsdp2", False), ("fsdp2", True)]


def wrap(engine: str | None, model: nn.Module) -> nn.Module:
    if engine == "ddp":
        return DistributedDataParallel(model, find_unused_parameters=True)
    if engine == "fsdp2":
        for block in split_parameters(model).modules:
            fully_shard(block)
        fully_shard(model)
    return model


def train(engine: str | None, reentrant: bool | None) -> dict[str, Any]:
    model = build("llama")
    if reentrant is not None:
        enable(model, reentrant)
    blocks = split_parameters(model).modules
    model = wrap(engine, model)
    selector = FastSelector(model, "random:k=1", mode="freeze", seed=1)
    optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    masks, calls = [], []
    share, shares = ranks()
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(3, VOCABULARY, (4, 9), generator=generator).chunk(shares)[share]
        with recomputed(blocks) as counted:
            model(input_ids=tokens, labels=tokens).loss.backward()
        calls.append(Counter(counted))
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
        masks.append(selector.mask.tolist())
    return {"masks": masks, "calls": calls, "weights": [whole(p) for p in model.parameters()]}


def checkpointed(folder: Path) -> list[dict[str, Any]]:
    return [train(engine, reentrant) for engine, reentrant in RUNS]


CHECKS = [checkpointed]


def test_checkpointed_runs_are_those_of_one_process_without(returned):
    expected = train(None, None)
    lowest = [mask.index(True) for mask in expected["masks"]]
    assert len(set(lowest)) > 2
    for together in returned(checkpointed):
        for run in together:
            assert run["masks"] == expected["masks"]
            for a, b in zip(run["weights"], expected["weights"], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
            # The first step may serve to see the engine.
            assert run["calls"][1:] == [dict.fromkeys(range(low, 4), 1) for low in lowest[1:]]
