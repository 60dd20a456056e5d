"""HeldScores: a random first choice, then the scores of the steps in which layers trained."""

from __future__ import annotations

import math

import pytest
import torch
from layerselect import FastSelector, HeldScores, LayerSelectError, make_rule
from layerselect.rules import MEASURED

from tests.helpers.models import plain, plain_loss
from tests.rules.choosing import bound, choose

HELD = 1 - MEASURED if MEASURED in (0, 1) else 0


def feed(rule, scores, trained):
    status = torch.full((len(scores),), HELD, dtype=torch.uint8)
    status[list(trained)] = MEASURED
    rule.after_step(torch.tensor(scores), status)


def test_the_first_choice_is_random_and_stays_until_there_are_scores():
    first = {seed: choose(bound("held", 12, seed=seed), [math.nan] * 12) for seed in range(8)}
    assert all(len(layers) == 6 for layers in first.values())
    assert len(set(map(frozenset, first.values()))) > 4
    rule = bound("held", 12, seed=3, k=4)
    assert choose(rule, [math.nan] * 12) == choose(rule, [math.nan] * 12)
    assert len(choose(rule, [math.nan] * 12)) == 4


def test_a_layer_keeps_the_score_with_which_it_last_trained():
    rule = bound("held", 6, base="topk:k=2")
    feed(rule, [5.0, 1.0, 4.0, math.nan, math.nan, math.nan], {0, 1, 2})
    assert choose(rule, [math.nan] * 6) == {0, 2}
    # Layer 2 falls behind; what layer 1 would have now is not seen, and layer 3 was never measured.
    feed(rule, [5.0, 9.0, 0.5, 9.0, 9.0, 9.0], {0, 2})
    assert choose(rule, [math.nan] * 6) == {0, 1}


@pytest.mark.parametrize("mode", ["freeze", "gate"])
def test_no_step_takes_gradients_of_more_layers_than_it_trains(mode):
    torch.manual_seed(0)
    model = plain(6)
    selector = FastSelector(model, rule="held:k=2;seed=1", mode=mode, probe_every=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    selector.attach(optimizer)
    for _ in range(8):
        optimizer.zero_grad()
        plain_loss(model).backward()
        selector.step()
        optimizer.step()
    rows = selector.history.arrays()
    assert rows["mask"][0].sum() == 2
    if mode == "freeze":
        assert (rows["trained"] == rows["mask"]).all()
        # Once frozen, never measured: what is left out keeps its score of the step before.
        for before, after, trained in zip(rows["scores"], rows["scores"][1:], rows["trained"][1:], strict=False):
            kept = ~trained & ~torch.isnan(torch.as_tensor(before)).numpy()
            assert (after[kept] == before[kept]).all()


def test_a_saved_rule_goes_on():
    rule = bound("held", 6, base="topk:k=2", seed=5)
    first = choose(rule, [math.nan] * 6)
    again = bound("held", 6, base="topk:k=2", seed=9)
    again.load_state_dict(rule.state_dict())
    assert choose(again, [math.nan] * 6) == first
    feed(rule, [5.0, 1.0, 4.0, 0.0, 0.0, 0.0], {0, 1, 2})
    again.load_state_dict(rule.state_dict())
    assert choose(again, [math.nan] * 6) == {0, 2}


@pytest.mark.parametrize(
    ("text", "words"), [("held:k=0", "whole number"), ('held:base="random"', "no scores"), ("held:k=9", "more than")]
)
def test_bad_options(text, words):
    with pytest.raises(LayerSelectError, match=words):
        make_rule(text).bind([f"l{i}" for i in range(6)])
    assert isinstance(make_rule("held"), HeldScores)
