"""``FastSelector(budget=)``: what a step may cost."""

from __future__ import annotations

import pytest
import torch
from layerselect import CostAware, FastSelector, LayerSelectError
from layerselect.integrations.transformers import SelectorCallback
from torch import nn

from tests.helpers.models import hugging_face, language_loss, plain, plain_loss, with_lora


def frozen_below() -> nn.Module:
    model = plain()
    model.embed.requires_grad_(False)
    return model


def train(selector: FastSelector, model: nn.Module, steps: int = 6, loss=plain_loss) -> list[list[int]]:
    optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    chosen = []
    for step in range(steps):
        loss(model, step).backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
        chosen.append(selector.selected())
    return chosen


@pytest.mark.parametrize("rule", ["variance", "topk:k=3", "all", "random:k=4"])
def test_it_is_the_cost_aware_rule_over_the_rule(rule):
    model, twin = frozen_below(), frozen_below()
    with FastSelector(model, rule, budget=0.75, mode="freeze", seed=3) as selector:
        ours = train(selector, model)
        costs = selector.rule.layer_costs
        assert all(costs.step_cost([layer in chosen for layer in range(6)]) <= 0.75 for chosen in ours)
    made = CostAware(0.75, rule if rule != "random:k=4" else "random:k=4;seed=3")
    with FastSelector(twin, made, mode="freeze") as selector:
        assert ours == train(selector, twin)


def test_a_budget_of_one_bounds_nothing():
    model, twin = frozen_below(), frozen_below()
    with FastSelector(model, "topk:k=3", budget=1) as selector, FastSelector(twin, "topk:k=3") as free:
        deepest = [min(chosen) for chosen in train(selector, model)]
        assert all(a >= min(b) for a, b in zip(deepest, train(free, twin), strict=True))


def test_with_cached_hidden_states_the_cut_keeps_to_it():
    cuts = []
    for settings in ({"budget": 0.6}, {"cut": "cost-aware:budget=0.6"}):
        model = with_lora(hugging_face("llama")).eval()
        with FastSelector(model, "variance", mode="freeze", state_cache="cached", **settings) as selector:
            assert selector.rule.name == "variance"
            chosen = train(selector, model, 8, language_loss)
            cuts.append((selector.cut, chosen))
            assert selector.cut and all(min(layers) >= selector.cut for layers in chosen[5:])
    assert cuts[0] == cuts[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": 0}, "budget=0 is not in"),
        ({"budget": 1.1}, "budget=1.1 is not in"),
        ({"budget": True}, "budget=True is not in"),
        ({"budget": "half"}, "budget='half' is not in"),
        ({"budget": float("nan")}, "budget=nan is not in"),
        ({"budget": 0.5, "rule": "cost-aware"}, "which has a budget of its own"),
        ({"budget": 0.5, "cut": 2, "state_cache": "cached", "mode": "freeze"}, "cut=2 says another one"),
    ],
)
def test_what_has_no_meaning_is_refused_before_there_is_a_model(options, words):
    for refuse in (lambda: FastSelector(plain(), **options), lambda: SelectorCallback(**options)):
        with pytest.raises(LayerSelectError, match=words):
            refuse()


def test_a_mode_in_which_it_saves_nothing_is_said(caplog):
    FastSelector(plain(), budget=0.5, mode="gate").close()
    assert "saves nothing in mode 'gate'" in caplog.text
