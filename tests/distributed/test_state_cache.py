"""Two processes under DDP fill one store of hidden states and read each other's entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.state_cache import StateStore
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.training import ranks
from tests.helpers.models import VOCABULARY, hugging_face, with_lora

PROCESSES = 2
BATCHES, EPOCHS, CUT = 3, 3, 2


def train(folder: Path, *, distributed: bool) -> dict[str, Any]:
    """Three epochs over three batches of 8; in each epoch the processes swap their halves."""
    model: nn.Module = with_lora(hugging_face("llama")).eval()
    if distributed:
        model = DistributedDataParallel(model, find_unused_parameters=True)
    # In memory, a process would find only what it has computed itself.
    store = StateStore(folder, memory=0)
    selector = FastSelector(
        model, "topk:k=1", mode="freeze", probe_every=2, state_cache="cached", cut=CUT, state_cache_store=store
    )
    optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.05)
    selector.attach(optimizer)
    rank, processes = ranks() if distributed else (0, 1)
    losses, masks, filled = [], [], []
    for step in range(BATCHES * EPOCHS):
        tokens = torch.randint(3, VOCABULARY, (8, 6), generator=torch.Generator().manual_seed(step % BATCHES))
        share = tokens.chunk(processes)[(rank + step // BATCHES) % processes]
        loss = model(input_ids=share, labels=share).loss
        loss.backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
        if distributed:
            torch.distributed.barrier()  # what one has written the other is to find
        losses.append(loss.item())
        masks.append(selector.mask.tolist())
        assert selector.state_cache is not None
        filled.append(selector.state_cache.filled)
    return {
        "losses": losses,
        "masks": masks,
        "filled": filled,
        "weights": torch.cat([p.detach().flatten() for n, p in model.named_parameters() if "lora" in n]),
    }


def kept_under_ddp(folder: Path) -> dict[str, Any]:
    return train(folder / "states", distributed=True)


def refused_under_fsdp2(folder: Path) -> str:
    model = with_lora(hugging_face("llama"))
    fully_shard(model)
    with pytest.raises(LayerSelectError) as caught:
        FastSelector(model, mode="freeze", state_cache="cached", cut=CUT)
    return str(caught.value)


CHECKS = [kept_under_ddp, refused_under_fsdp2]


def test_two_processes_learn_what_one_does(started, tmp_path: Path):
    one, other = started(PROCESSES).look(kept_under_ddp)
    alone = train(tmp_path / "states", distributed=False)
    assert torch.equal(one["weights"], other["weights"])
    assert one["masks"] == other["masks"] == alone["masks"]
    torch.testing.assert_close(one["weights"], alone["weights"], rtol=1e-5, atol=1e-6)
    means = [(a + b) / 2 for a, b in zip(one["losses"], other["losses"], strict=True)]
    assert means == pytest.approx(alone["losses"], rel=1e-5)


def test_each_reads_what_the_other_has_computed(started):
    """From the second epoch on each has the other's half, and computes nothing."""
    for run in started(PROCESSES).look(kept_under_ddp):
        assert run["filled"] == [4, 8, 12] + [12] * (BATCHES * (EPOCHS - 1))


def test_shards_are_refused(started):
    for message in started(PROCESSES).look(refused_under_fsdp2):
        assert "sharded" in message and "state_cache='none'" in message
