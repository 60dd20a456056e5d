"""A GradScaler and optimizers that a selection leaves without any gradient: the scaler passes over them."""

from __future__ import annotations

import math

import pytest
import torch
from layerselect import FastSelector
from layerselect.core import step as core_module
from torch import nn
from torch.amp import GradScaler

from tests.helpers.gated import everything_of
from tests.helpers.models import plain, plain_loss


@pytest.fixture(params=["host", "device"])
def decides(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, native) -> str:
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: request.param == "device")
    return request.param


def only_layers() -> nn.Module:
    """Nothing trains outside the layers, as with LoRA."""
    model = plain()
    for p in (*model.embed.parameters(), *model.head.parameters()):
        p.requires_grad_(False)
    return model


def unscale(scaler: GradScaler, optimizers: list[torch.optim.Optimizer]) -> None:
    for optimizer in optimizers:
        scaler.unscale_(optimizer)


def clip(scaler: GradScaler, optimizers: list[torch.optim.Optimizer]) -> None:
    unscale(scaler, optimizers)
    held = [p for o in optimizers for g in o.param_groups for p in g["params"] if p.grad is not None]
    torch.nn.utils.clip_grad_norm_(held, 0.5)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "rule", ["threshold:gamma=1e9", "none", "topk:k=2", "lisa:n=1;interval=1", "cost-aware:budget=0.7"]
)
@pytest.mark.parametrize("how", ["one", "one per layer"])
@pytest.mark.parametrize("early, late", [(None, None), (unscale, None), (None, unscale), (None, clip)])
def test_nothing_left(decides, rule, how, fused, early, late):
    model = only_layers()
    with FastSelector(model, rule, mode="freeze", probe_every=0, lag=0) as selector:
        held = [selector.trainable_parameters()] if how == "one" else [list(b.parameters()) for b in model.blocks]
        optimizers = [torch.optim.AdamW(ps, lr=1e-2, weight_decay=0.1, fused=fused) for ps in held]
        selector.attach(*optimizers)
        scaler = GradScaler("cpu", init_scale=2.0**10)
        for step in range(6):
            scaler.scale(plain_loss(model, step)).backward()
            if early is not None:
                early(scaler, optimizers)
            selector.step(grad_scale=scaler)
            if late is not None:
                late(scaler, optimizers)
            still = [i for i in range(selector.num_layers) if i not in selector.selected()]
            before = [everything_of(o, model.blocks[i].parameters()) for o in optimizers for i in still]
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
            assert before == [everything_of(o, model.blocks[i].parameters()) for o in optimizers for i in still]
            assert scaler.get_scale() == 2.0**10
            for optimizer in optimizers:
                optimizer.zero_grad()
            assert all(p.grad is None for p in model.parameters())


def test_what_was_left_for_the_scaler_is_no_gradient(decides):
    """A user who neither steps nor zeroes meets it again in the next backward pass, and it counts for nothing."""
    model = only_layers()
    with FastSelector(model, "fixed:layers=[5]", mode="freeze", lag=0) as selector:
        optimizers = [torch.optim.AdamW(b.parameters(), lr=1e-2) for b in model.blocks]
        selector.attach(*optimizers)
        scaler = GradScaler("cpu", init_scale=2.0**10)
        for step in range(3):
            scaler.scale(plain_loss(model, step)).backward()
            selector.step(grad_scale=scaler)
            assert selector.scores[:5].isnan().all() or step == 0
            before = everything_of(optimizers[0], model.blocks[0].parameters())
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
            assert everything_of(optimizers[0], model.blocks[0].parameters()) == before
            # What the gate kept from the step is gone; the real ones are zeroed.
            assert all(p.grad is None for b in model.blocks[:5] for p in b.parameters())
            optimizers[5].zero_grad()


def test_a_gradient_that_is_not_finite_still_skips(decides):
    """In another optimizer than the one without a gradient."""
    model = only_layers()
    with FastSelector(model, "fixed:layers=[4, 5]", mode="freeze", lag=0) as selector:
        optimizers = [torch.optim.AdamW(b.parameters(), lr=1e-2) for b in model.blocks]
        selector.attach(*optimizers)
        scaler = GradScaler("cpu", init_scale=2.0**10)
        for step in range(3):
            handle = model.blocks[5][1].weight.register_hook(lambda g: g * math.inf) if step == 1 else None
            scaler.scale(plain_loss(model, step)).backward()
            if handle is not None:
                handle.remove()
            before = everything_of(optimizers[5], model.blocks[5].parameters())
            selector.step(grad_scale=scaler)
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
            assert (everything_of(optimizers[5], model.blocks[5].parameters()) == before) == (step == 1)
            assert scaler.get_scale() == (2.0**10 if step == 0 else 2.0**9)
            for optimizer in optimizers:
                optimizer.zero_grad()


@pytest.mark.parametrize("mode", ["observe", "gate", "freeze"])
def test_disabled_scalers_and_mode_observe_leave_nothing(decides, mode):
    model = only_layers()
    with FastSelector(model, "threshold:gamma=1e9", mode=mode, lag=0) as selector:
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
        selector.attach(optimizer)
        plain_loss(model).backward()
        there = [p.grad is not None for p in model.parameters()]
        selector.step(grad_scale=GradScaler("cpu", enabled=False))
        left = [p.grad is not None for p in model.parameters()]
        assert left == there if mode != "freeze" or decides == "device" else not any(left)
