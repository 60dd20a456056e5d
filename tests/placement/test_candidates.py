"""Sets of layers that have a name, and what they cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.costs import LayerCosts
from layerselect.placement.candidates import (
    SHAPES,
    Candidate,
    cut_below,
    distinct,
    layers_of,
    ranked_layers,
    step_cost,
    usual_names,
)


@given(shape=st.sampled_from(SHAPES), layers=st.integers(1, 90), data=st.data())
def test_every_shape_has_as_many_layers_as_asked(shape, layers, data):
    count = data.draw(st.integers(1, layers))
    found = layers_of(shape, count, layers)
    assert len(set(found)) == count and found == tuple(sorted(found)) and found[0] >= 0 and found[-1] < layers
    if shape in ("upper", "uniform"):
        assert found[-1] == layers - 1


def test_where_they_are():
    assert layers_of("upper", 2, 6) == (4, 5) and layers_of("lower", 2, 6) == (0, 1)
    assert layers_of("middle", 2, 6) == (2, 3) and layers_of("uniform", 3, 6) == (1, 3, 5)
    for shape, count in (("upper", 0), ("upper", 7), ("odd", 2)):
        with pytest.raises(LayerSelectError):
            layers_of(shape, count, 6)


def test_the_usual_ones_begin_with_what_tells_most():
    assert usual_names(12)[:6] == ["all", "head", "upper:4", "upper:2", "upper:1", "uniform:4"]
    assert usual_names(1) == ["all", "head"]
    assert "ir:4" in usual_names(8) and "norms:2" in usual_names(8)


def test_costs_and_what_is_cached():
    costs = LayerCosts((1.0,) * 4, (1.0,) * 4, (0.5,) * 4, 2.0)
    assert step_cost(costs, range(4)) == 1.0
    assert step_cost(costs, [3]) == pytest.approx((4 + 1 + 0.5 + 2) / 12)
    assert step_cost(costs, [3], reads=1.0) == pytest.approx((1 + 1 + 0.5 + 2) / 12)
    assert step_cost(costs, [3, 1], reads=0.5) == pytest.approx((4 + 3 + 1 + 2 - 0.5) / 12)
    assert step_cost(costs, range(4), reads=1.0) == 1.0
    assert step_cost(costs, []) == pytest.approx(6 / 12)
    assert step_cost(costs, [], reads=1.0) == pytest.approx(3 / 12)  # the uppermost runs
    assert [cut_below(each, 4) for each in ([0, 3], [3], [2, 3], [])] == [0, 3, 2, 3] and cut_below([], 1) == 0


def test_doubles_and_ranks():
    assert [each.name for each in distinct([Candidate("a", (1,), 1), Candidate("b", (1,), 1)])] == ["a"]
    assert ranked_layers([1.0, 3.0, 3.0, 0.0], 2) == (1, 2) and ranked_layers([1.0, 1.0, 1.0], 1) == (2,)
