"""Steps on tensors without contents, beside the same steps on real ones."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layerselect.costs.simulated import Bytes, Simulation, _first
from layerselect.utils.saved_activations import SavedActivations
from torch import nn


def _stack(width: int, layers: int) -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(layers)))


@settings(max_examples=12, deadline=None)
@given(width=st.integers(2, 40), layers=st.integers(1, 5), batch=st.integers(1, 50), length=st.integers(1, 30))
def test_one_run_tells_what_any_batch_keeps(width, layers, batch, length):
    with torch.device("meta"):
        model = _stack(width, layers)
    memory = Simulation(model, list(model), on_gpu=False, length=length).step(
        lambda examples: model(torch.zeros(examples, length, width)).sum()
    )
    real = _stack(width, layers)
    with SavedActivations(real.parameters()) as kept:
        loss = real(torch.zeros(batch, length, width)).sum()
    assert memory.saved.at(batch) == kept.bytes
    assert sum((each for each in memory.by_layer), Bytes()).at(batch) <= kept.bytes
    loss.backward()
    assert memory.gradients == sum(p.grad.nbytes for p in real.parameters())
    assert memory.peak(batch) >= memory.saved.at(batch)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=30), st.integers(1, 100))
def test_the_fullest_moments_are_enough(moments, batch):
    from layerselect.costs.simulated import _Held

    held = _Held([], 1009)
    for fixed, per_example in moments:
        held._most[per_example] = max(fixed, held._most.get(per_example, -1))
    chosen = held.fullest()
    assert max(each.at(batch) for each in chosen) == max(fixed + batch * grows for fixed, grows in moments)
    assert all(_first(one, other) > 1 for one, other in pairwise(chosen))


def test_a_frozen_lower_layer_keeps_nothing():
    with torch.device("meta"):
        model = _stack(8, 4)
    simulation = Simulation(model, list(model), on_gpu=False, length=3)
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    memory = simulation.step(lambda examples: model(torch.zeros(examples, 3, 8)).sum())
    assert memory.by_layer[0] == Bytes()
    assert memory.by_layer[1].per_example > 0


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_gpu_keeps_the_mask_of_a_dropout_in_bytes(on_gpu):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    simulation = Simulation(model, [model[0]], on_gpu=on_gpu, length=3)
    memory = simulation.step(lambda examples: model(torch.zeros(examples, 3, 8)).sum())
    # The input of the linear map, and the mask.
    assert memory.saved.per_example == 3 * 8 * 4 + 3 * 8 * (1 if on_gpu else 4)
