"""Models with a selector, the ways to copy them, and what is expected of a copy."""

from __future__ import annotations

import copy
import io
import pickle

import torch
from layerselect import FastSelector
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from tests.helpers.models import PlainStack, plain, plain_loss
from tests.helpers.selected import a_rule

RULES = (
    "variance",
    "cosine",
    "counted",
    "measured",
    "weight-norm",
    "ist",
    "lisa",
    "block-cyclic",
    "random:k=2",
    "probe-once:steps=2",
    "layer-card",
)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def averaged(model):
    average = AveragedModel(model)
    average.update_parameters(model)
    return average.module


COPIES = {"deepcopy": copy.deepcopy, "pickle": pickled, "torch.save": saved, "AveragedModel": averaged}


class Checkpointed(PlainStack):
    """With checkpoints of its own around the blocks, in the form that transformers keeps them in."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.gradient_checkpointing = True
        self._gradient_checkpointing_func = checkpoint
        self.reentrant = reentrant

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        for block in self.blocks:
            hidden = hidden + self._gradient_checkpointing_func(block, hidden, use_reentrant=self.reentrant)
        return self.head(hidden)


def a_model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = plain() if kind == "plain" else Checkpointed(reentrant=kind == "reentrant")
    model.embed.weight.requires_grad_(kind == "reentrant")  # frozen by the user, as one weight of a layer
    model.blocks[2][0].bias.requires_grad_(False)
    return model


def selected_model(rule: str, mode: str, kind: str = "plain", **options):
    model = a_model(kind)
    selector = FastSelector(model, a_rule(rule, model), mode=mode, probe_every=4, **options)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
    selector.attach(optimizer)
    return model, selector, optimizer


def flags(model: nn.Module) -> list[bool]:
    return [p.requires_grad for p in model.parameters()]


def assert_free(copied: nn.Module, kind: str) -> None:
    """It has the user's flags and none of our code in it, and trains like a model that never had a selector."""
    assert flags(copied) == flags(a_model(kind))
    assert b"layerselect" not in pickle.dumps(copied)
    never = a_model(kind)
    never.load_state_dict(copied.state_dict())
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2) for model in (copied, never)]
    for step in range(2):
        for model, optimizer in zip((copied, never), optimizers, strict=True):
            optimizer.zero_grad()
            plain_loss(model, 50 + step).backward()
        for ours, theirs in zip(copied.parameters(), never.parameters(), strict=True):
            assert (ours.grad is None) == (theirs.grad is None)
            assert ours.grad is None or torch.equal(ours.grad, theirs.grad)
        for optimizer in optimizers:
            optimizer.step()
    for ours, theirs in zip(copied.parameters(), never.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    copied.zero_grad()
