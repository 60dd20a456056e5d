"""Optimizers that move what has no gradient are refused; those that do not are watched for a few steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from layerselect import FastSelector, LayerSelectError

from tests.helpers.gated import (
    OPTIMIZERS,
    UsersOwn,
)
from tests.helpers.models import plain, plain_loss
from tests.helpers.scripted import Scripted

LAYERS = 4


class TakesNoneForZero(UsersOwn):
    """Counts a missing gradient as one of zeros: its momentum rolls on."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p)).mul_(0.9)
                if p.grad is not None:
                    m.add_(p.grad)
                p.data.sub_(m, alpha=group["lr"])


class DecaysAll(torch.optim.SGD):
    """Decays the vectors and matrices of all layers, whatever trains."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data.mul_(0.99)
        super().step(closure)


@pytest.mark.parametrize("mode", ["gate", "freeze"])
@pytest.mark.parametrize(("build", "steps"), [(TakesNoneForZero, 2), (DecaysAll, 1)])
def test_an_optimizer_that_moves_what_has_no_gradient_is_refused(build, steps, mode):
    model = plain(LAYERS)
    masks = [[True, True, False, False], [False, True, True, False]]
    with FastSelector(model, Scripted(masks), mode=mode) as selector:
        optimizer = build(selector.trainable_parameters())
        selector.attach(optimizer)
        message = (
            rf"{build.__name__} changed a parameter of an unselected layer .* skips parameters whose .grad is None"
        )
        for step in range(steps):
            plain_loss(model, step).backward()
            selector.step()
            if step == steps - 1:
                with pytest.raises(LayerSelectError, match=message):
                    optimizer.step()
                return
            optimizer.step()
            optimizer.zero_grad()


def test_a_good_optimizer_is_watched_no_longer_than_needed(monkeypatch):
    model = plain(LAYERS)
    masks = [[True, True, False, False], [False, True, True, False]] * 6
    with FastSelector(model, Scripted(masks), mode="gate") as selector:
        optimizer = OPTIMIZERS["lion"](selector.trainable_parameters())
        selector.attach(optimizer)
        looked = []
        (gate,) = selector._attachment._hooks
        look = gate._watch._everything_of
        monkeypatch.setattr(gate._watch, "_everything_of", lambda *a, **k: looked.append(step) or look(*a, **k))
        for step in range(6):
            plain_loss(model, step).backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
        # Before and after the first two steps; in the second a layer stayed put that the first had moved.
        assert looked == [0, 0, 1, 1]
