"""What a selection cost beside training all layers, against the formula applied by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from layerselect.costs import LayerCosts
from layerselect.selector.memory_by_part import PartMemory
from layerselect.selector.savings import counted_costs, savings

from tests.helpers.models import plain

COSTS = LayerCosts((2.0, 3.0, 5.0), (1.0, 4.0, 2.0), (1.0, 1.0, 2.0), rest=4.0)
WHOLE = 10 + 7 + 4 + 4
ROWS = {
    "step": np.arange(4),
    "trained": np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=bool),
}


def optimizer(states: int) -> torch.optim.Optimizer:
    """One of four parameters, of which so many have a state."""
    parameters = [torch.nn.Parameter(torch.ones(10)) for _ in range(4)]
    made = torch.optim.AdamW(parameters)
    for parameter in parameters[:states]:
        parameter.grad = torch.ones(10)
    made.step()
    return made


def selector(cut=None, measured=None):
    rule = SimpleNamespace(measured_costs=measured)
    return SimpleNamespace(cut=cut, rule=rule, memory_by_part=lambda: [PartMemory("head", 10, 40, 0, 84)])


def test_arithmetic_lowest_layers_and_states():
    facts = savings(selector(), ROWS, COSTS, optimizer(3))
    steps = [WHOLE, 10 + 4 + 6 + 3, 10 + 4 + 2 + 2, 10 + 4]
    assert facts["step_share"] == pytest.approx(np.mean(steps) / WHOLE, abs=1e-4)
    assert facts["step_share_from"] == "counted"
    assert facts["lowest_layers"] == {"0": 1, "1": 1, "2": 1}
    assert facts["optimizer_share"] == 0.75 and facts["optimizer_bytes"] == {"head": 84}
    assert facts["activation_share"] == pytest.approx((1 + 2 / 3 + 1 / 3 + 0) / 4, abs=1e-4)
    assert facts["activation_share_from"] == "counted"


def test_what_was_measured_counts():
    measured = LayerCosts((0.0, 0.0, 0.0), (8.0, 0.0, 0.0), (0.0, 0.0, 0.0), rest=2.0)
    facts = savings(
        selector(measured=measured), ROWS, COSTS, optimizer(1), saved_bytes=[40, 40, 20, 20, 10, 10, 10, 10]
    )
    assert facts["step_share"] == pytest.approx((10 + 2 + 2 + 2) / 40, abs=1e-4)
    assert facts["step_share_from"] == facts["activation_share_from"] == "measured"
    assert facts["activation_share"] == pytest.approx((40 + 20 + 10 + 10) / 160, abs=1e-4)


def test_layers_below_a_cut_do_not_run_once_their_output_is_cached():
    rows = {"step": np.arange(2), "trained": np.array([[0, 1, 1], [0, 1, 1]], dtype=bool)}
    whole, cached = (savings(selector(cut=1), rows, COSTS, optimizer(1), cached_steps=n)["step_share"] for n in (0, 1))
    assert whole - cached == pytest.approx(2.0 / WHOLE / 2, abs=1e-4)


def test_nothing_is_said_of_no_steps_nor_of_an_optimizer_without_states():
    empty = {"step": np.arange(0), "trained": np.zeros((0, 3), dtype=bool)}
    assert savings(selector(), empty, COSTS, optimizer(1)) == {}
    plain_sgd = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=1.0)
    assert savings(selector(), ROWS, COSTS, plain_sgd)["optimizer_share"] is None


def test_costs_are_counted_on_the_layers_of_the_model():
    costs = counted_costs(plain())
    assert costs.num_layers == 6 and len(set(costs.weight_gradient)) == 1
    assert costs.step_cost([True] * 6) == pytest.approx(1.0)
