"""Models that checkpoint their layers in ways of their own, in mode ``freeze``."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from layerselect import FastSelector
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.helpers.checkpointed import (
    KINDS,
    assert_same,
    frozen_by_hand,
    recomputed,
)
from tests.helpers.models import VOCABULARY, plain_loss


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.reentrant: bool | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        if self.reentrant is None:
            return hidden + self.inner(hidden)
        return hidden + checkpoint(self.inner, hidden, use_reentrant=self.reentrant)


class CallCheckpointedBlock(Block):
    """As transformers before 5.2 did it: ``__call__`` is checkpointed, so the block's hooks run inside."""

    gradient_checkpointing = True

    def __call__(self, *args, **kwargs):
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(partial(super().__call__, **kwargs), *args)
        return super().__call__(*args, **kwargs)


class OwnCheckpointing(nn.Module):
    """A stack that checkpoints its blocks itself, in one of several ways, over an embedding made to ask for a
    gradient.
    """

    gradient_checkpointing = True

    def __init__(self, how: str, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.reentrant = how, reentrant
        self.embed = nn.Embedding(VOCABULARY, 16).requires_grad_(False)
        self.embed.register_forward_hook(lambda module, args, output: output.requires_grad_(True))
        kind = CallCheckpointedBlock if how == "call" else Block
        self.blocks = nn.ModuleList(kind(16) for _ in range(4))
        self.head = nn.Linear(16, VOCABULARY).requires_grad_(False)
        self._gradient_checkpointing_func = partial(checkpoint, use_reentrant=reentrant)
        for block in self.blocks:
            if how == "inside":
                block.reentrant = reentrant
            if how == "call":
                block._gradient_checkpointing_func = self._gradient_checkpointing_func

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        for index, block in enumerate(self.blocks):
            if self.how in ("none", "call"):
                hidden = block(hidden)
            elif self.how == "stack":
                hidden = self._gradient_checkpointing_func(block.__call__, hidden)
            elif self.how == "closure":
                hidden = self._gradient_checkpointing_func(lambda x, block=block: block(x), hidden)
            elif self.how == "direct" or (self.how == "upper" and index >= 1):
                hidden = checkpoint(block, hidden, use_reentrant=self.reentrant)
            elif self.how == "nested":
                inner = partial(self._gradient_checkpointing_func, block.__call__)
                hidden = checkpoint(inner, hidden, use_reentrant=self.reentrant)
            else:
                hidden = block(hidden)
        return self.head(hidden)


@KINDS
@pytest.mark.parametrize(
    ("how", "saves"),
    [
        ("call", True),
        ("stack", True),
        ("inside", True),
        # These get right gradients, and save what the kind allows.
        ("closure", False),
        ("direct", False),
        ("upper", False),
        ("nested", False),
    ],
)
def test_models_that_checkpoint_in_their_own_way(how, saves, reentrant):
    def gradients(model: nn.Module) -> dict[str, Tensor]:
        model.zero_grad()
        plain_loss(model).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    for trained in ([2, 3], [0, 2]):
        oracle = gradients(frozen_by_hand(OwnCheckpointing("none", reentrant), trained))
        assert len(oracle) == 8
        model = OwnCheckpointing(how, reentrant)
        with FastSelector(model, f"fixed:layers={trained}", mode="freeze"), recomputed(list(model.blocks)) as calls:
            for _ in range(3):
                calls.clear()
                assert_same(gradients(model), oracle)
            if saves:
                assert sorted(calls) == list(range(trained[0], 4))
        assert len(gradients(model)) == 16


def test_reentrant_checkpointing_of_the_models_own_is_reported_once(caplog):
    model = OwnCheckpointing("direct", True)
    with caplog.at_level(logging.INFO, "layerselect"), FastSelector(model, "fixed:layers=[3]", mode="freeze"):
        plain_loss(model).backward()
        plain_loss(model).backward()
    assert sum("the model checkpoints its layers itself" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("reentrant", [False, True])
def test_passes_that_begin_inside_a_backward_pass(reentrant):
    """As losses over large batches make them (GradCache, arXiv 2101.06983): the embeddings are computed without
    gradients, and once more, in small batches, where the gradient of the loss comes back to them.
    """
    ends = []
    for mode in ("freeze", "gate"):
        model = OwnCheckpointing("inside", reentrant)
        selector = FastSelector(model, "fixed:layers=[2]", mode=mode, probe_every=0)
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        for step in range(3):
            parts = torch.randint(0, VOCABULARY, (2, 3, 5), generator=torch.Generator().manual_seed(step))
            with torch.no_grad():
                first = torch.cat([model(part) for part in parts])
            first.requires_grad_(True)

            def once_more(gradient: Tensor, model: nn.Module = model, parts: Tensor = parts) -> None:
                for part, of_part in zip(parts, gradient.chunk(2), strict=True):
                    with torch.enable_grad():
                        model(part).backward(of_part)

            first.register_hook(once_more)
            first.square().mean().backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
        ends.append([p.detach().clone() for p in model.parameters()])
        assert all(p.requires_grad for block in model.blocks for p in block.parameters())
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert any(
        not torch.equal(a, b) for a, b in zip(ends[0], OwnCheckpointing("inside", reentrant).parameters(), strict=True)
    )
