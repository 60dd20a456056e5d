"""The rule ``layer-card``: what a card proposes is what trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layerselect import FastSelector, LayerSelectError, make_rule
from layerselect.card import measure
from layerselect.rules import LayerCardRule

from tests.card.batches import texts
from tests.card.made import made
from tests.helpers.models import hugging_face, language_loss, with_lora
from tests.rules.choosing import bound, choose


def test_it_selects_what_the_card_places(tmp_path):
    made([3.0, 0.1, 2.0]).save(tmp_path)
    rule = bound("layer-card", 3, card=str(tmp_path), k=2)
    assert choose(rule, [0.0] * 3) == {0, 2}
    assert choose(rule, [0.0] * 3, [1, 2, 0]) == {0}  # a layer whose gradient is not finite is left out
    assert rule.config() == {
        "card": str(tmp_path),
        "k": 2,
        "budget": None,
        "objective": "performance",
        "chosen": ["layers.0", "layers.2"],
    }
    named = make_rule(f'layer-card:card="{tmp_path}";budget=0.7;objective="balanced"')
    assert named.chosen == ["layers.2"]
    assert LayerCardRule(made([1.0, 2.0]), k=1).config()["card"] == "model model"


@pytest.mark.parametrize("mode", ["freeze", "gate"])
def test_it_trains_a_model_by_its_own_card(tmp_path, mode):
    base = hugging_face("llama")
    card = measure(base, texts(6), timed=False)
    card.save(tmp_path)
    model = with_lora(base)  # peft puts names in front
    expected = card.place(k=2)
    with FastSelector(model, make_rule("layer-card", card=str(tmp_path), k=2), mode=mode) as selector:
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
        selector.attach(optimizer)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        for step in range(3):
            language_loss(model, step).backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
        assert selector.selected() == expected
    moved = {
        layer
        for layer in range(4)
        for name, p in model.named_parameters()
        if f"layers.{layer}." in name and not torch.equal(p, before[name])
    }
    assert moved == set(expected)


def test_a_card_of_another_model_is_refused(tmp_path):
    made([3.0, 0.1, 2.0]).save(tmp_path)
    with pytest.raises(LayerSelectError, match="the card has 3 layers, the model 4"):
        bound("layer-card", 4, card=str(tmp_path), k=1)
    with pytest.raises(LayerSelectError, match="a layer 'blocks.0' where the model has 'layers.0'"):
        bound("layer-card", 2, card=made([1.0, 2.0], prefix="blocks"), k=1)
    # Not a mere end of a word.
    with pytest.raises(LayerSelectError, match="a layer 'ers.0'"):
        bound("layer-card", 2, card=made([1.0, 2.0], prefix="ers"), k=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "card= is missing"),
        ({"card": "nowhere"}, "cannot be read"),
        ({"card": made([1.0, 2.0])}, "would take all layers"),
        ({"card": made([1.0, 2.0]), "k": 1, "objective": "speed"}, "objective='speed'"),
    ],
)
def test_what_it_cannot_do_is_said(options, message):
    with pytest.raises(LayerSelectError, match=message):
        make_rule("layer-card", **options)


def test_coupled_layers_are_not_both_selected():
    coupling = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert choose(bound("layer-card", 3, card=made([3.0, 3.0, 1.0], coupling), k=2), [0.0] * 3) == {1, 2}
