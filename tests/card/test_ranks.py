"""Ranks of LoRA from a card."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from layerselect import FastSelector, LayerSelectError
from layerselect.card import measure
from peft import LoraConfig, get_peft_model

from tests.card.batches import texts
from tests.card.made import made
from tests.helpers.models import hugging_face, with_lora


@pytest.mark.parametrize("wrapped", [False, True])
def test_peft_takes_them_within_a_percent_of_the_budget_and_they_train(wrapped):
    model = hugging_face("llama")
    card = measure(with_lora(model) if wrapped else model, texts(), timed=False)
    layers = [replace(layer, fresh=1.0 + number / 4) for number, layer in enumerate(card.layers)]  # else it is noise
    card = replace(card, layers=layers)
    every = get_peft_model(hugging_face("llama"), LoraConfig(r=16, target_modules="all-linear"))
    whole = sum(p.numel() for name, p in every.named_parameters() if "lora_" in name)
    found = card.rank_pattern(0.5)
    assert 0.99 * whole / 2 <= found.parameters <= whole / 2
    again = get_peft_model(hugging_face("llama"), found.lora_config(task_type="CAUSAL_LM"))
    assert sum(p.numel() for name, p in again.named_parameters() if "lora_" in name) == found.parameters
    with FastSelector(again, "all", mode="observe") as selector:
        again(**texts()[0]).loss.backward()
        selector.step()
        assert not selector.scores.isnan().any()


def test_ranks_follow_what_layers_are_ranked_by():
    found = made([4.0, 0.0, -1.0, 2.0]).rank_pattern(7 * 3)
    assert found.rank_pattern == {r"layers\.0\.map": 2, r"layers\.3\.map": 1}
    with pytest.raises(LayerSelectError, match="worth an adapter"):
        made([-1.0, -2.0]).rank_pattern(100)


def test_ranks_and_placements_of_an_unsure_card_come_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        made([2.0, 3.0]).place(k=1)
        made([2.0, 3.0]).rank_pattern(100)
        assert not caplog.records
        noise = made([0.4, 0.3])  # no interval above zero
        noise.place(k=1)
        noise.rank_pattern(100)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "this placement is unsure",
        "these ranks are unsure",
    ]
