"""The operation that cuts a selection down to a budget, against brute force over all depths in exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layerselect import _backend
from layerselect.costs.counted import LayerCosts
from layerselect.rules import EXCLUDED, MEASURED, NEVER_MEASURED

from tests.conftest import native_is_built

TIE = Fraction(1e-12)


def brute_force(scores, status, base, costs: list[float], budget: float) -> tuple[set[int], float, float]:
    """(layers, share kept, cost) by trying every depth."""
    length = len(scores)
    depth, train = [Fraction(c) for c in costs[: length + 1]], [Fraction(c) for c in costs[length + 1 :]]
    measured = [Fraction(s) for s, known in zip(scores, status, strict=True) if known == MEASURED]
    unknown = max(measured, default=Fraction(1))
    worth = [Fraction(scores[i]) if status[i] == MEASURED else unknown for i in range(length)]
    chosen = {i for i in range(length) if base[i] and status[i] != EXCLUDED}

    def cost(layers: set[int]) -> Fraction:
        return depth[min(layers, default=length)] + sum((train[i] for i in layers), Fraction(0))

    def total(layers: set[int]) -> Fraction:
        return sum((worth[i] for i in layers), Fraction(0))

    def fits(layers: set[int]) -> bool:
        limit = Fraction(budget) * (1 + TIE)
        assume(abs(cost(layers) - limit) > limit * TIE / 10)  # or rounding decides
        return cost(layers) <= limit

    candidates = [{i for i in chosen if i >= d} for d in sorted(chosen)]
    fitting = [layers for layers in candidates if fits(layers)]
    kept: set[int] = set()
    if fitting:
        values = [total(layers) / cost(layers) for layers in fitting]
        least = max(values) * (1 - TIE)
        assume(all(abs(value - least) > least * TIE / 10 for value in values) or least == 0)
        kept = [layers for layers, value in zip(fitting, values, strict=True) if value >= least][-1]
    elif chosen:
        alone = [i for i in range(length) if status[i] != EXCLUDED and fits({i})]
        kept = {max(alone, key=lambda i: (worth[i], i))} if alone else set()
    share = float(total(kept & chosen) / total(chosen)) if total(chosen) else 1.0
    return kept, share, float(cost(kept))


def float32(**limits: float) -> st.SearchStrategy[float]:
    return st.floats(width=32, allow_nan=False, allow_infinity=False, **limits)


@pytest.fixture(params=["native", "torch"], scope="module")
def backend_name(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and not native_is_built():
        pytest.skip("the compiled core layerselect._C is not built")
    return request.param


@st.composite
def problems(draw):
    length = draw(st.integers(1, 10))

    def column(values: st.SearchStrategy) -> list:
        return draw(st.lists(values, min_size=length, max_size=length))

    number = draw(st.sampled_from([st.integers(0, 3).map(float), st.floats(0, 100)]))
    costs = LayerCosts(column(number), column(number), column(number), rest=draw(st.floats(0.01, 10)))
    scores = column(draw(st.sampled_from([st.integers(0, 3).map(float), float32(min_value=0, max_value=2.0**100)])))
    status = column(st.sampled_from([EXCLUDED, MEASURED, MEASURED, NEVER_MEASURED]))
    table = costs.table().tolist()
    budget = draw(st.one_of(st.floats(0.01, 1.0), st.sampled_from(table[: length + 1])))
    assume(budget > 0)
    return scores, status, column(st.booleans()), table, budget, costs


@settings(max_examples=250)
@given(problem=problems())
def test_every_depth_is_tried(backend_name, problem):
    scores, status, base, table, budget, costs = problem
    mask, share, cost = _backend.load(backend_name, "cpu").within_budget(
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(status, dtype=torch.uint8),
        torch.tensor(base),
        torch.tensor(table, dtype=torch.float64),
        budget,
    )
    expected, expected_share, expected_cost = brute_force(scores, status, base, table, budget)
    assert set(mask.nonzero().flatten().tolist()) == expected
    assert share.item() == pytest.approx(expected_share, rel=1e-6)
    assert [cost.item(), costs.step_cost(mask)] == pytest.approx([expected_cost] * 2, rel=1e-6)
    assert not mask.any() or costs.step_cost(mask) <= budget * (1 + 1e-11)


@pytest.mark.parametrize("count", [31, 100, 1024])
def test_both_backends_agree_on_many_layers(count, native):
    reference = _backend.load("torch")
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(count, generator=generator)
        status = torch.randint(0, 3, (count,), generator=generator, dtype=torch.uint8)
        base = torch.rand(count, generator=generator) < 0.5
        numbers = torch.rand(3, count, generator=generator).tolist()
        table = LayerCosts(*map(tuple, numbers), rest=1.0).table()
        for budget in (0.4, 0.6, 0.9):
            ours, theirs = (b.within_budget(scores, status, base, table, budget) for b in (native, reference))
            for a, b in zip(ours, theirs, strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"base": torch.ones(2, dtype=torch.bool)}, "base has"),
        ({"base": torch.ones(3)}, "base has dtype"),
        ({"costs": torch.ones(6, dtype=torch.float64)}, "costs has"),
        ({"costs": torch.ones(7)}, "costs has dtype"),
        ({"budget": 0.0}, "budget is 0"),
        ({"budget": math.nan}, "budget is nan"),
        ({"scores": torch.tensor([1.0, -1.0, 1.0])}, "a measured score is -1"),
        ({"scores": torch.tensor([1.0, math.nan, 1.0])}, r"scores\[1\] is nan"),
    ],
)
def test_arguments_are_checked(ops_of, changed, message):
    arguments = {
        "scores": torch.ones(3),
        "status": torch.ones(3, dtype=torch.uint8),
        "base": torch.ones(3, dtype=torch.bool),
        "costs": torch.ones(7, dtype=torch.float64),
        "budget": 0.5,
    }
    ops_of.within_budget(**arguments)
    with pytest.raises(ValueError, match=message):
        ops_of.within_budget(**{**arguments, **changed})
