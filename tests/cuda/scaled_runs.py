"""Trainings under a loss scale in which some attempts are skipped, and whether two of them are the same."""

from __future__ import annotations

import math

import torch
from layerselect import FastSelector
from torch import nn
from torch.amp import GradScaler

from tests.core.skipping import OPTIMIZERS
from tests.helpers.models import plain_loss

LAYERS = 6
ATTEMPTS = 20


def spoil(model: nn.Module, attempt: int, trained: list[int]) -> list[torch.utils.hooks.RemovableHandle]:
    """Makes gradients not finite in the next backward pass: an outer one, or one of a layer that trains."""
    if attempt % 2:
        return [model.head.weight.register_hook(lambda g: g * math.inf)]
    weights = [model.blocks[layer][1].weight for layer in trained]
    return [weights[attempt % len(weights)].register_hook(lambda g: g + math.nan)]


def train(
    selector: FastSelector, model: nn.Module, skips: set[int], kind: str = "adamw fused", unscale: bool = False
) -> list[dict[str, object]]:
    """What was trained and what selected, attempt by attempt."""
    optimizer = OPTIMIZERS[kind](selector.trainable_parameters())
    selector.attach(optimizer)
    scaler = GradScaler("cpu", init_scale=2.0**10, growth_interval=10**6)
    rows = []
    for attempt in range(ATTEMPTS):
        handles = spoil(model, attempt, selector.trained()) if attempt in skips else []
        trained = selector.trained()
        scaler.scale(plain_loss(model, attempt)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        selector.step(scaler)
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        assert (scaler.get_scale() < scale) == (attempt in skips)
        optimizer.zero_grad()
        for handle in handles:
            handle.remove()
        rows.append({"trained": trained, "selected": selector.selected(), "steps": selector.steps})
    return rows


def assert_same_run(selector: FastSelector, model: nn.Module, expected: FastSelector, twin: nn.Module) -> None:
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(selector.scores, expected.scores, rtol=1e-6, atol=0, equal_nan=True)
    torch.testing.assert_close(selector.total_norm, expected.total_norm, rtol=1e-6, atol=0)
    assert torch.equal(selector.frequency, expected.frequency)
    assert torch.equal(selector.nonfinite, expected.nonfinite)
    rows, others = selector.history.arrays(), expected.history.arrays()
    for name in ("step", "mask", "trained"):
        assert (rows[name] == others[name]).all(), name


SKIPS = {0, 1, 5, 8, 9, 10, 15}
