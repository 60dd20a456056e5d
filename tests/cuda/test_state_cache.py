"""Cached hidden states on a GPU: the same numbers, and a step that waits for nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from layerselect import FastSelector
from layerselect.state_cache import StateCache, StateStore, worth_caching
from layerselect.state_cache.padding import batch_of
from torch import nn

from tests.cuda.test_on_gpu import no_sync
from tests.state_cache.test_same_numbers import Batch, adapted, batches, error

pytestmark = pytest.mark.cuda
CUT = 2


def to_gpu(batch: Batch) -> Batch:
    """Tensors in pinned memory are copied without a wait; whatever else is in the batch stays as it is."""
    return {
        name: value.pin_memory().to("cuda", non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


def losses(model: nn.Module, given: Iterator[Batch]) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    seen = []
    for batch in given:
        loss = model(**to_gpu(batch)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.detach())
    return seen


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "gpt2", "bert", "t5"])
def test_the_same_losses(name: str, ahead: bool):
    steps = batches(name, "right") * 4
    expected = losses(adapted(name, CUT).cuda(), iter(steps))
    model = adapted(name, CUT).cuda()
    with StateCache(model, CUT) as state_cache:
        found = losses(model, state_cache.ahead(steps) if ahead else iter(steps))
        assert (state_cache.filled, state_cache.read) == (9, 27)
    assert error(torch.stack(found), torch.stack(expected)) < 1e-5


def test_bfloat16_autocast():
    steps = batches("llama", "right") * 3
    run = []
    for kept in (False, True):
        model = adapted("llama", CUT).cuda()
        state_cache = StateCache(model, CUT) if kept else None
        with torch.autocast("cuda", torch.bfloat16):
            run.append(torch.stack(losses(model, state_cache.ahead(steps) if state_cache else iter(steps))))
        if state_cache is not None:
            assert state_cache.read == 18
            state_cache.close()
    assert error(run[1], run[0]) < 1e-4


class Encoder(nn.Module):
    """Of torch's own layers, whose forward pass waits for nothing; models of ``transformers`` look at their masks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 16).requires_grad_(False)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True) for _ in range(4))
        self.head = nn.Linear(16, 64)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


def test_a_step_of_a_later_epoch_never_waits():
    """Selected, frozen, read ahead: with the keys in the batch the host asks the device for nothing."""
    model = Encoder().cuda()
    selector = FastSelector(model, "topk:k=1", mode="freeze", state_cache="cached", cut=CUT, probe_every=0)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-3, fused=True)
    selector.attach(optimizer)
    kept = selector.state_cache
    assert kept is not None
    steps = [{"tokens": torch.randint(0, 64, (3, 7), generator=torch.Generator().manual_seed(n))} for n in range(3)]

    def step(batch: Batch) -> None:
        tokens = batch["tokens"]
        nn.functional.cross_entropy(model(**batch).flatten(0, 1), tokens.flatten()).backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()

    following = kept.ahead(steps * 4)
    for _ in range(6):
        step(to_gpu(next(following)))
    for _ in range(6):
        batch = to_gpu(next(following))
        with no_sync():
            step(batch)
    assert (kept.filled, kept.read) == (9, 27)
    assert selector.trained() != [] and min(selector.trained()) >= CUT


def test_states_arrive_before_they_are_used():
    """Large states, whose copy takes longer than the host needs to launch what reads them."""
    from layerselect.state_cache.prefetch import Prefetcher

    sent, place = Prefetcher(), object()
    device = torch.device("cuda", torch.cuda.current_device())
    examples = [(torch.randn(4096, 2048),) for _ in range(4)]
    for number in range(5):
        host = batch_of([(part + number,) for (part,) in examples], [None], [torch.float32], pinned=True)
        keys = (bytes([number]) * 16,)
        sent.send(keys, place, host, [device])
        (state,) = sent.take(keys, place)
        torch.testing.assert_close(state.sum(dim=(1, 2)).cpu(), host[0].cuda().sum(dim=(1, 2)).cpu())
    assert sent.take(keys, place) is None


def test_cpu_and_gpu_entries_are_apart():
    store = StateStore()
    steps = batches("llama", "right")
    for device in ("cpu", "cuda"):
        model = adapted("llama", CUT).to(device)
        with StateCache(model, CUT, store) as state_cache, torch.no_grad():
            for batch in steps:
                model(**{name: value.to(device) for name, value in batch.items()})
            assert state_cache.filled == 9


def test_the_arithmetic_of_a_gpu():
    """A tiny layer is computed faster than its states are read; a stack of large ones is not."""
    small = nn.ModuleList([nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64))]).cuda()
    large = nn.ModuleList([nn.Sequential(nn.LayerNorm(2048), nn.Linear(2048, 8192), nn.Linear(8192, 2048))] * 8).cuda()
    assert not worth_caching(list(small))
    assert worth_caching(list(large))
