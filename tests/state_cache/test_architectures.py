"""Architectures whose hidden states depend on more than the example: norms over the batch, layers left out, rotary
embeddings that follow the batch.
"""

from __future__ import annotations

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.state_cache import StateCache
from torch import nn

from tests.state_cache.changes import CUT, logits


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.norm(self.linear(hidden).transpose(1, 2)).transpose(1, 2)


class Stack(nn.Module):
    def __init__(self, *, times: int = 1) -> None:
        super().__init__()
        self.times, self.layerdrop = times, 0.0
        self.embed, self.blocks = nn.Embedding(64, 8), nn.ModuleList(Normed() for _ in range(4))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(tokens)
        for _ in range(self.times):
            for block in self.blocks:
                if self.training and torch.rand(()) < self.layerdrop:
                    continue
                hidden = block(hidden)
        return hidden


def stack(**options: int) -> nn.Module:
    torch.manual_seed(0)
    return Stack(**options).requires_grad_(False)


def test_norms_over_the_batch(caplog):
    """While they train, they take the batch's statistics, and their own move."""
    plainly, model = stack(), stack()
    batches = [torch.randint(0, 64, (3, 5)) for _ in range(2)]
    with StateCache(model, CUT) as state_cache:
        for mode in (True, False, True, False):
            for tokens in batches:
                assert torch.equal(model.train(mode)(tokens), plainly.train(mode)(tokens))
        assert state_cache.filled == 12
        assert torch.equal(model(batches[0]), plainly(batches[0]))
        assert state_cache.read == 3
    assert "blocks.0.norm trains, so it normalises by the batch" in caplog.text


def test_layers_that_are_left_out_at_random(caplog):
    plainly, model = stack(), stack()
    tokens = torch.randint(0, 64, (3, 5))
    for one in (plainly, model):
        for module in one.modules():
            module.training = not isinstance(module, nn.BatchNorm1d)
        one.layerdrop = 0.5
    with StateCache(model, CUT):
        for seed in range(4):
            found = []
            for one in (plainly, model):
                torch.manual_seed(seed)
                found.append(one(tokens))
            assert torch.equal(*found)
    assert "leaves out layers at random" in caplog.text


def test_layers_that_run_twice_are_refused():
    model = stack(times=2).eval()
    with StateCache(model, CUT), pytest.raises(LayerSelectError, match="runs its layers more than once in a pass"):
        model(torch.randint(0, 64, (3, 5)))


def test_rotary_embeddings_that_follow_the_batch(caplog):
    from transformers import LlamaConfig, LlamaForCausalLM

    def build() -> nn.Module:
        torch.manual_seed(0)
        return (
            LlamaForCausalLM(
                LlamaConfig(
                    hidden_size=16,
                    intermediate_size=32,
                    num_hidden_layers=4,
                    num_attention_heads=2,
                    vocab_size=64,
                    max_position_embeddings=8,
                    rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
                )
            )
            .eval()
            .requires_grad_(False)
        )

    plainly, model = build(), build()
    tokens = torch.randint(3, 64, (2, 20))
    with StateCache(model, CUT):
        for length in (6, 20, 6, 12):
            assert torch.equal(logits(model, of(tokens[:, :length])), logits(plainly, of(tokens[:, :length])))
    assert "depend on the longest example of the batch" in caplog.text


def of(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
