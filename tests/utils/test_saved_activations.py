"""Counting what autograd saves, against cases worked by hand."""

from __future__ import annotations

import torch
from layerselect import FastSelector
from layerselect.utils.saved_activations import SavedActivations, saved_activation_bytes
from torch import nn

from tests.helpers.models import plain, plain_loss


def test_a_linear_map_saves_its_input_once():
    layer = nn.Linear(8, 4, bias=False)
    inputs = torch.randn(5, 8)
    assert saved_activation_bytes(layer, lambda: layer(inputs).sum()) == 5 * 8 * 4
    # A frozen map whose input needs no gradient saves nothing.
    layer.requires_grad_(False)
    assert saved_activation_bytes(layer, lambda: layer(inputs).sum()) == 0
    # A view of the same storage is not counted twice.
    layer.requires_grad_(True)
    assert saved_activation_bytes(layer, lambda: (layer(inputs) + layer(inputs.view(5, 8))).sum()) == 5 * 8 * 4


def test_what_is_dropped_on_the_way_is_not_kept():
    layer = nn.Linear(8, 4, bias=False)
    with SavedActivations(layer.parameters()) as saved:
        for _ in range(50):  # each takes the place of the last one
            layer(torch.randn(5, 8)).sum()
        kept = layer(torch.randn(7, 8)).sum()
    assert saved.bytes == 7 * 8 * 4
    kept.backward()
    del kept
    assert saved.bytes == 7 * 8 * 4  # as it was when the block ended


def test_freezing_saves_activations():
    model = plain()
    everything = saved_activation_bytes(model, lambda: plain_loss(model))
    with FastSelector(model, "fixed:layers=[5]", mode="freeze"):
        model.embed.requires_grad_(False)
        assert 0 < saved_activation_bytes(model, lambda: plain_loss(model)) < everything
