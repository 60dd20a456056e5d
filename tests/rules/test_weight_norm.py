"""WeightNorm against norms taken with numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from layerselect import FastSelector, LayerSelectError, WeightNorm, make_rule
from layerselect.layers.find import split_parameters

from tests.helpers.models import hugging_face, language_loss, plain, plain_loss, with_lora
from tests.helpers.simulation import variance_split
from tests.rules.recording import Recording


def norms(layers, part: str = "") -> list[float]:
    """Of each layer, over the weights in whose name ``part`` is."""
    return [
        math.sqrt(
            math.fsum(
                float(np.square(p.detach().double().numpy()).sum()) for n, p in module.named_parameters() if part in n
            )
        )
        for module in layers
    ]


@pytest.mark.parametrize("layers", [2, 3, 12, 80])
def test_the_largest_weights_train_whatever_the_number_of_layers(layers):
    model = plain(layers)
    layers = list(model.blocks)
    with torch.no_grad():
        for block in model.blocks:
            block[1].weight *= 1 + torch.rand(())
    base = Recording()
    with FastSelector(model, WeightNorm(base), mode="observe") as selector:
        plain_loss(model).backward()
        selector.step()
        assert base.seen == [pytest.approx(norms(layers), rel=1e-6)]
        assert set(selector.selected()) == variance_split(norms(layers))


@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_follows_the_weights_as_they_train(mode):
    model = plain()
    layers, base = list(model.blocks), Recording()
    with FastSelector(model, WeightNorm(base), mode=mode) as selector:
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=3.0)
        selector.attach(optimizer)
        expected = [norms(layers)]
        for step in range(4):
            plain_loss(model, step).backward()
            expected.append(norms(layers))
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
        # In mode freeze the choice of a step is made at the end of the step before, in front of the optimizer's step.
        seen, wanted = (base.seen[:4], expected[:4]) if mode == "freeze" else (base.seen, expected[1:])
        assert seen == [pytest.approx(row, rel=1e-6) for row in wanted]
        assert len({tuple(row) for row in seen}) >= 3
        rows = selector.history.arrays()
    assert [set(row.nonzero()[0]) for row in rows["mask"]] == [variance_split(row) for row in seen]


@pytest.mark.parametrize("match", [None, "o_proj", "lora_A"])
def test_frozen_weights_count_and_match_picks(match):
    model = with_lora(hugging_face("llama"))
    base = Recording()
    with FastSelector(model, WeightNorm(base, match=match), mode="observe") as selector:
        for step in range(2):
            language_loss(model, step).backward()
            selector.step()
            assert base.seen[step] == pytest.approx(norms(split_parameters(model).modules, match or ""), rel=1e-6)
            with torch.no_grad():
                for parameter in selector.trainable_parameters():
                    parameter += 0.3


def test_bad_options():
    with pytest.raises(LayerSelectError, match="is no regular expression"):
        make_rule('weight-norm:match="("')
    with pytest.raises(
        LayerSelectError, match="'wrong' is found in no name of a weight of layer 'blocks.0', such as '0.weight'"
    ):
        FastSelector(plain(), 'weight-norm:match="wrong"')
    with pytest.raises(LayerSelectError, match="base='lisa' looks at no scores"):
        make_rule('weight-norm:base="lisa"')
