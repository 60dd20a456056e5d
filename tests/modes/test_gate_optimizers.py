"""Gating by every optimizer: what is not selected keeps every bit, what is selected trains as if alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layerselect import FastSelector
from layerselect.core import step as core_module
from torch import nn

from tests.helpers.gated import (
    OPTIMIZERS,
    TAKE_A_GATE,
    Alone,
    Build,
    Counting,
    SharpnessAware,
    copy_gradients,
    everything_of,
)
from tests.helpers.models import plain, plain_loss
from tests.helpers.scripted import Scripted

LAYERS = 4


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fifty_random_selections(name):
    build = OPTIMIZERS[name]
    model, twin = plain(LAYERS), plain(LAYERS)
    with FastSelector(model, "random:k=2", mode="gate", seed=11) as selector:
        optimizer, alone = build(selector.trainable_parameters()), Alone(build, twin.parameters())
        selector.attach(optimizer)
        for step in range(50):
            plain_loss(model, step).backward()
            selector.step()
            before = [everything_of(optimizer, block.parameters()) for block in model.blocks]
            chosen = selector.selected()
            assert len(chosen) == 2
            copy_gradients(model, twin, chosen)
            optimizer.step()
            for index, block in enumerate(model.blocks):
                moved = everything_of(optimizer, block.parameters()) != before[index]
                assert moved == (index in chosen), (step, index)
                # The gradient is still there for whoever logs it.
                assert all(p.grad is not None for p in block.parameters())
            alone.step()
            assert everything_of(optimizer, model.parameters()) == everything_of(alone, twin.parameters()), step
            optimizer.zero_grad(set_to_none=step % 3 == 0)


def grouped(build: Build, model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Matrices and vectors in groups of their own, the matrices at another learning rate."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    optimizer = build([{"params": matrices}, {"params": vectors}])
    if optimizer.param_groups[0]["lr"] is not None:
        optimizer.param_groups[0]["lr"] *= rate
    return optimizer


# Plain SGD(fused=True) fails where some momenta have started and others not; Rprop and ASGD copy the rate into their
# state.
@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(
        [n for n in OPTIMIZERS if n not in ("sgd momentum fused", "sgd nesterov fused", "sgd dampening fused")]
    ),
    masks=st.lists(st.lists(st.booleans(), min_size=LAYERS, max_size=LAYERS), min_size=1, max_size=6),
    mode=st.sampled_from(["gate", "freeze"]),
    on_device=st.booleans(),
    to_none=st.booleans(),
    rate=st.sampled_from([0.1, 1.0, 3.0]),
    decays=st.booleans(),
)
def test_any_masks(name, masks, mode, on_device, to_none, rate, decays):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core_module, "_has_kernels", lambda settings: on_device)
        model, twin = plain(LAYERS), plain(LAYERS)
        with FastSelector(model, Scripted(masks), mode=mode, lag=0) as selector:
            optimizers = grouped(OPTIMIZERS[name], model, rate), grouped(OPTIMIZERS[name], twin, rate)
            schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in optimizers if decays and rate != 3.0]
            selector.attach(optimizers[0])
            for step, mask in enumerate(masks):
                plain_loss(model, step).backward()
                selector.step()
                chosen = [index for index, selected in enumerate(mask) if selected]
                assert selector.selected() == chosen
                copy_gradients(model, twin, chosen)
                gated = [p for i, b in enumerate(model.blocks) if i not in chosen for p in b.parameters()]
                before = everything_of(optimizers[0], gated)
                for optimizer in optimizers:
                    optimizer.step()
                assert everything_of(optimizers[0], gated) == before
                mine = everything_of(optimizers[0], model.parameters())
                assert mine == everything_of(optimizers[1], twin.parameters())
                for scheduler in schedulers:
                    scheduler.step()
                for optimizer in optimizers:
                    optimizer.zero_grad(set_to_none=to_none)


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize(
    "build", [*(OPTIMIZERS[n] for n in ("lion", "adamw", "rmsprop foreach")), SharpnessAware, Counting]
)
def test_closures(build, on_device, monkeypatch):
    """The closure computes the gradients, and closes the selector's step, inside the optimizer's."""
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: on_device)
    masks = [
        [False, True, True, False],
        [True, False, True, False],
        [False] * 4,
        [True] * 4,
        [False, True, False, True],
    ]
    model, twin = plain(LAYERS), plain(LAYERS)
    with FastSelector(model, Scripted([m for m in masks for _ in range(2)]), mode="gate", interval=1) as selector:
        optimizer, plain_one = build(selector.trainable_parameters()), build(twin.parameters())
        selector.attach(optimizer)
        for step, mask in enumerate(masks):
            chosen = [index for index, selected in enumerate(mask) if selected]
            # A sharpness-aware step wants gradients before its closure, and the selection that belongs to them.
            plain_loss(model, step).backward()
            selector.step()
            copy_gradients(model, twin, chosen)

            def closure(step=step, chosen=chosen) -> torch.Tensor:
                with torch.enable_grad():
                    model.zero_grad()
                    loss = plain_loss(model, step + 100)
                    loss.backward()
                selector.step()
                assert selector.selected() == chosen
                return loss

            def twin_closure(step=step, chosen=chosen) -> torch.Tensor:
                with torch.enable_grad():
                    twin.zero_grad()
                    loss = plain_loss(twin, step + 100)
                    loss.backward()
                for index, block in enumerate(twin.blocks):
                    if index not in chosen:
                        block.zero_grad()
                return loss

            gated = [p for i, b in enumerate(model.blocks) if i not in chosen for p in b.parameters()]
            before = everything_of(optimizer, gated)
            loss = optimizer.step(closure) if step % 2 else optimizer.step(closure=closure)
            assert torch.equal(loss, plain_one.step(twin_closure))
            assert everything_of(optimizer, gated) == before
            assert everything_of(optimizer, model.parameters()) == everything_of(plain_one, twin.parameters())
            assert all(p.grad is not None for p in model.parameters())


class DecaysLate(torch.optim.SGD):
    """Calls the step it is built upon, and decays afterwards what has a gradient."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            p.data.mul_(0.99)
        return loss


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_a_step_inside_a_step(on_device, monkeypatch):
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: on_device)
    masks = [[True] * 4, [True, False, True, False], [False, True, True, False], [False] * 4]
    model, twin = plain(LAYERS), plain(LAYERS)
    torch.optim.SGD(plain(1).parameters())  # torch makes a step run hooks when it first sees its class
    with FastSelector(model, Scripted(masks), mode="gate") as selector:
        optimizer = DecaysLate(selector.trainable_parameters(), lr=0.1, momentum=0.9)
        alone = Alone(lambda parameters: DecaysLate(parameters, lr=0.1, momentum=0.9), twin.parameters())
        selector.attach(optimizer)
        for step, mask in enumerate(masks):
            plain_loss(model, step).backward()
            selector.step()
            copy_gradients(model, twin, [i for i, selected in enumerate(mask) if selected])
            optimizer.step()
            alone.step()
            assert everything_of(optimizer, model.parameters()) == everything_of(alone, twin.parameters())
            assert all(p.grad is not None for p in model.parameters())
            optimizer.zero_grad()


def test_every_fused_optimizer_with_a_gate_is_in_the_list():
    assert {n for n in OPTIMIZERS if "fused" in n} - set(TAKE_A_GATE) == {"adagrad fused", "sgd dampening fused"}


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_matrices_and_vectors_have_optimizers_of_their_own(on_device, monkeypatch):
    """As Muon wants it: the layers' matrices are its, all else is another's."""
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: on_device)
    model, twin = plain(LAYERS), plain(LAYERS)

    def pair(module: nn.Module) -> list[torch.optim.Optimizer]:
        matrices = [p for p in module.blocks.parameters() if p.ndim == 2]
        others = [p for p in module.parameters() if all(p is not q for q in matrices)]
        return [torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1), torch.optim.AdamW(others, lr=1e-2, fused=True)]

    with FastSelector(model, "random:k=2", mode="gate", seed=5) as selector:
        optimizers, plain_ones = pair(model), pair(twin)
        selector.attach(*optimizers)
        for step in range(12):
            plain_loss(model, step).backward()
            selector.step()
            copy_gradients(model, twin, selector.selected())
            for mine, plain_one in zip(optimizers, plain_ones, strict=True):
                mine.step()
                plain_one.step()
                assert everything_of(mine, model.parameters()) == everything_of(plain_one, twin.parameters()), step
            model.zero_grad()
