"""Rules that choose by place: how many layers, which, and the same in every step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layerselect import FastSelector, LayerSelectError, make_rule

from tests.helpers.models import plain, plain_loss
from tests.rules.choosing import bound, choose

NAMES = ("upper", "lower", "middle", "uniform")


@given(layers=st.integers(1, 80), p=st.floats(0.01, 1.0))
def test_as_many_as_asked_where_they_belong(layers, p):
    count = max(1, math.floor(p * layers + 0.5))
    chosen = {name: sorted(choose(bound(name, layers, p=p), [0.0] * layers)) for name in NAMES}
    assert all(len(each) == count for each in chosen.values())
    assert chosen["upper"][-1] == chosen["uniform"][-1] == layers - 1
    assert chosen["lower"][0] == 0
    for name in ("upper", "lower", "middle"):
        assert chosen[name][-1] - chosen[name][0] == count - 1
    below, above = chosen["middle"][0], layers - 1 - chosen["middle"][-1]
    assert below - above in (0, 1)
    gaps = [b - a for a, b in zip([-1, *chosen["uniform"]], chosen["uniform"], strict=False)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_it_is_constant_and_needs_no_probe(name):
    rule = make_rule(f"{name}:p=0.34")
    assert rule.constant and not rule.uses_scores
    model = plain(layers=6)
    selector = FastSelector(model, rule, mode="freeze")
    optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    seen = set()
    for seed in range(3):
        plain_loss(model, seed).backward()
        selector.step()
        seen.add(tuple(selector.selected()))
        optimizer.step()
        optimizer.zero_grad()
    selector.close()
    assert len(seen) == 1 and len(seen.pop()) == 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("p", [0.0, 1.5, -1])
def test_a_share_out_of_range_is_refused(name, p):
    with pytest.raises(LayerSelectError, match=f"rule '{name}'"):
        make_rule(name, p=p)
