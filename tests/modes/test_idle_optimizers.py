"""Attached optimizers that do not step are said once, and no others."""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector
from torch import nn

from tests.helpers.models import plain, plain_loss
from tests.helpers.watched import build, one_step, said

IDLE = "no attached optimizer (SGD) has stepped in between"


def test_an_optimizer_that_does_not_step_is_said_in_the_second_step(caplog):
    model, selector, _ = build()
    with selector:
        for seed in range(4):
            assert len(said(caplog, IDLE)) == (seed >= 2)
            plain_loss(model, seed).backward()
            selector.step()
    assert "in accelerate, `selector.step(accelerator)`" in said(caplog, IDLE)[0].getMessage()


def test_accumulation_as_accelerate_does_it(caplog):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    for guarded in (True, False):
        model = plain(4)
        with FastSelector(model, "random:k=2", mode="gate") as selector:
            optimizer = accelerator.prepare(torch.optim.SGD(selector.trainable_parameters(), lr=0.1))
            selector.attach(optimizer)
            for seed in range(6):
                with accelerator.accumulate(model):
                    accelerator.backward(plain_loss(model, seed))
                    if accelerator.sync_gradients or not guarded:
                        selector.step()
                    optimizer.step()
                    optimizer.zero_grad()
        assert len(said(caplog, IDLE)) == (not guarded)


def test_an_optimizer_that_was_rebuilt_is_said(caplog):
    model, selector, _ = build()
    with selector:
        rebuilt = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        for seed in range(3):
            one_step(model, selector, rebuilt, seed)
    assert len(said(caplog, IDLE)) == 1


def test_an_ordinary_run_is_not_spoken_of(caplog):
    for mode in ("gate", "freeze", "observe"):
        model, selector, optimizer = build(mode)
        with selector:
            for seed in range(5):
                one_step(model, selector, optimizer, seed)
    assert not caplog.records


class Infinite(nn.Module):
    """Makes gradients that are not finite in the steps in which it is told to."""

    def __init__(self):
        super().__init__()
        self.now = False

    def forward(self, loss):
        return loss * float("inf") if self.now else loss


@pytest.mark.parametrize("skipped", [(1, 2, 3), ()])
def test_a_step_that_a_scaler_skips_is_not_missed(skipped, caplog):
    model, selector, optimizer = build()
    spoil, scaler = Infinite(), torch.amp.GradScaler("cpu", init_scale=2.0)
    with selector:
        for seed in range(5):
            spoil.now = seed in skipped
            scaler.scale(spoil(plain_loss(model, seed))).backward()
            selector.step(scaler)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert not said(caplog, IDLE)


def test_a_scaler_that_is_never_asked_skips_nothing(caplog):
    model, selector, optimizer = build()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    with selector:
        for seed in range(4):
            scaler.scale(plain_loss(model, seed)).backward()
            selector.step(scaler)
            if seed % 2:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
    assert len(said(caplog, IDLE)) == 1
