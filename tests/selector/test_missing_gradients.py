"""Layers whose gradient is missing or not finite in a step."""

from __future__ import annotations

import math

import pytest
import torch
from layerselect import FastSelector, TopK

from tests.helpers.models import plain, plain_loss
from tests.helpers.norms import gradient_norms


def test_a_layer_without_a_gradient_keeps_its_score(backend):
    model = plain()
    unused = model.blocks[2]
    with FastSelector(model, TopK(6), mode="observe", backend=backend) as selector:
        plain_loss(model).backward()
        selector.step()
        before = float(selector.scores[2])
        assert before > 0
        model.zero_grad()
        for parameter in unused.parameters():
            parameter.requires_grad_(False)
        unused_loss = plain_loss(model)
        for parameter in unused.parameters():
            parameter.requires_grad_(True)
        unused_loss.backward()
        selector.step()
        norms = gradient_norms(selector, model)
        assert norms[2] == 0.0
        assert selector.scores.tolist() == pytest.approx([*norms[:2], before, *norms[3:]], rel=1e-6)


@pytest.mark.parametrize("mode", ["gate", "freeze"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_leaves_its_layer_out_for_one_step(mode, value, backend):
    model = plain()
    with FastSelector(model, TopK(6), mode=mode, backend=backend) as selector:
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-3)
        selector.attach(optimizer)
        plain_loss(model).backward()
        selector.step()
        before = selector.scores.clone()
        optimizer.step()
        optimizer.zero_grad()

        handle = model.blocks[3][1].weight.register_hook(lambda g: torch.full_like(g, value))
        plain_loss(model).backward()
        handle.remove()
        selector.step()
        assert selector.selected() == [0, 1, 2, 4, 5]
        assert float(selector.scores[3]) == float(before[3])
        assert selector.nonfinite.tolist() == [0, 0, 0, 1, 0, 0]
        weight = model.blocks[3][1].weight.clone()
        optimizer.step()
        assert torch.equal(model.blocks[3][1].weight, weight)
        optimizer.zero_grad()

        plain_loss(model).backward()
        selector.step()
        assert selector.selected() == [0, 1, 2, 3, 4, 5]
        assert float(selector.scores[3]) != float(before[3])


@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_a_choice_that_reads_no_scores_outlives_a_gradient_that_is_not_finite(mode):
    model = plain()
    with FastSelector(model, "random:k=3", mode=mode, interval=4) as selector:
        chosen = None
        for step in range(4):
            broken = [b[1].weight for b in model.blocks if step == 1 and b[1].weight.requires_grad]
            handles = [weight.register_hook(lambda g: g * math.nan) for weight in broken]
            plain_loss(model).backward()
            selector.step()
            for handle in handles:
                handle.remove()
            model.zero_grad()
            chosen = chosen or selector.selected()
            assert selector.selected() == ([] if step == 1 else chosen)
        assert len(chosen) == 3
        assert selector.frequency.sum() == 3


def test_never_measured_is_not_the_same_as_not_finite(backend):
    model = plain()
    with FastSelector(model, TopK(2), mode="freeze", probe_every=0, backend=backend) as selector:
        handle = model.blocks[0][1].weight.register_hook(lambda g: g * math.nan)
        plain_loss(model).backward()
        handle.remove()
        selector.step()
        assert 0 not in selector.selected()
        assert math.isnan(float(selector.scores[0]))
        # Never measured: it takes gradients next, and then has a score like any other.
        assert 0 in selector.trained()
        model.zero_grad()
        plain_loss(model).backward()
        selector.step()
        assert math.isfinite(float(selector.scores[0]))
