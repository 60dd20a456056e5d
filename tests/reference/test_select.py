"""The selection rules of both backends against exact fractions, by brute force."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layerselect import LayerSelectError, _backend, ops, reference
from layerselect.reference.selection import EXCLUDED, MEASURED, NEVER_MEASURED
from torch import Tensor

TIE = Fraction(1e-12)


def exact_variance(values: list[Fraction]) -> Fraction:
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values)


def exact_cut(values: list[Fraction], window: tuple[float, float]) -> int:
    """The cut k of DESIGN section 4 for ascending values, by trying them all."""
    m = len(values)
    low, high = int(window[0] * m), int(window[1] * m)
    while not (cuts := [k for k in range(1, m) if low <= k - 1 <= high]):
        low, high = low - 1, high + 1
    costs = {k: exact_variance(values[:k]) + exact_variance(values[k:]) for k in cuts}
    least = min(costs.values())
    # Rounding may decide what is within 1e-12 of the least cost only for costs that differ by just that.
    assume(all(abs(cost - least * (1 + TIE)) > least * TIE / 10 for cost in costs.values()) or least == 0)
    return min(k for k, cost in costs.items() if cost <= least * (1 + TIE))


def brute_force(
    scores: list[float], status: list[int], window: tuple[float, float], inclusive: bool, splits: int
) -> tuple[list[bool], float]:
    chosen = sorted((i for i, s in enumerate(status) if s == MEASURED), key=lambda i: (scores[i], i))
    threshold = math.nan
    for _ in range(splits):
        if len(chosen) == 1:
            threshold = scores[chosen[0]]
        if len(chosen) < 2:
            break
        k = exact_cut([Fraction(scores[i]) for i in chosen], window)
        threshold = scores[chosen[k - 1]]
        chosen = chosen[k - 1 if inclusive else k :]
    return [i in chosen or s == NEVER_MEASURED for i, s in enumerate(status)], threshold


def float32(**limits: float) -> st.SearchStrategy[float]:
    return st.floats(width=32, allow_nan=False, allow_infinity=False, **limits)


def progression(start: float, step: float, count: int) -> list[float]:
    return torch.tensor([start + step * i for i in range(count)], dtype=torch.float32).tolist()


def mirrored(gaps: list[int]) -> list[float]:
    """Values as far apart from below as from above: cuts k and m - k cost the same, but are not rounded alike."""
    values = [0.0]
    for gap in gaps + gaps[::-1]:
        values.append(values[-1] + gap)
    return values


VALUES = st.one_of(
    st.lists(st.integers(0, 1000), min_size=1, max_size=12).map(mirrored),
    st.lists(float32(min_value=0, max_value=1), min_size=1, max_size=24),
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]), min_size=1, max_size=24),  # many ties
    st.lists(float32(min_value=0, max_value=2.0**100), min_size=1, max_size=12),
    st.lists(float32(min_value=0, max_value=2.0**-126), min_size=1, max_size=12),  # denormals
    st.builds(progression, st.floats(0, 100), st.floats(1e-3, 10), st.integers(1, 30)),
)
WINDOWS = st.one_of(
    st.sampled_from([(0.35, 0.65), (0.0, 1.0), (0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.9, 1.0)]),
    st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda w: (min(w), max(w))),
)


def run(backend: str, scores: list[float], status: list[int], *options) -> tuple[list[bool], float]:
    mask, threshold = _backend.load(backend, "cpu").variance_split(
        torch.tensor(scores, dtype=torch.float32), torch.tensor(status, dtype=torch.uint8), *options
    )
    assert mask.dtype == torch.bool and threshold.dtype == torch.float32 and threshold.shape == ()
    return mask.tolist(), threshold.item()


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


@settings(max_examples=400)
@given(data=st.data(), values=VALUES, window=WINDOWS, inclusive=st.booleans(), splits=st.integers(1, 3))
def test_variance_split_is_the_exact_rule(backend_name, data, values, window, inclusive, splits):
    status = data.draw(
        st.one_of(
            st.just([MEASURED] * len(values)),
            st.lists(st.sampled_from([EXCLUDED, MEASURED, NEVER_MEASURED]), min_size=len(values), max_size=len(values)),
        )
    )
    mask, threshold = run(backend_name, values, status, *window, inclusive, splits)
    expected_mask, expected_threshold = brute_force(values, status, window, inclusive, splits)
    assert mask == expected_mask
    assert same(threshold, expected_threshold)


@pytest.fixture(params=["native", "torch"], scope="module")
def backend_name(request: pytest.FixtureRequest) -> str:
    """Like ``backend``, for hypothesis, which wants fixtures that live longer than a test."""
    if request.param == "native" and isinstance(_backend._native(), str):
        pytest.skip("the compiled core layerselect._C is not built")
    return request.param


@pytest.mark.parametrize("count", [2, 3, 31, 32, 33, 100, 1024])
def test_both_backends_agree_on_many_layers(count, native):
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(count, generator=generator).exp().round(decimals=seed + 1)
        status = (torch.rand(count, generator=generator) * 3.9).to(torch.uint8).clamp(0, 3).remainder(3)
        for options in ((0.35, 0.65, True, 1), (0.0, 1.0, False, 2)):
            mask, threshold = native.variance_split(scores, status, *options)
            expected_mask, expected_threshold = reference.variance_split(scores, status, *options)
            assert torch.equal(mask, expected_mask)
            assert same(threshold.item(), expected_threshold.item())


@pytest.mark.parametrize(
    ("scores", "options", "selected", "threshold"),
    [
        # Two clear groups: cost(3) = Var(1,2,3) + Var(10,11,12) = 4/3 is the least.
        ([1, 2, 3, 10, 11, 12], {}, [2, 3, 4, 5], 3),
        ([1, 2, 3, 10, 11, 12], {"inclusive": False}, [3, 4, 5], 3),
        # The second split works on 3, 10, 11, 12 (m = 4, cuts 2 and 3): cost(2) = 49/4 + 1/4, cost(3) = 38/3.
        ([1, 2, 3, 10, 11, 12], {"splits": 2}, [3, 4, 5], 10),
        ([12, 1, 11, 2, 10, 3], {}, [0, 2, 4, 5], 3),
        # Without a window, one outlier: cost(5) = 0.
        ([1, 1, 1, 1, 1, 9], {"window": (0, 1)}, [4, 5], 1),
        # All equal: every cut costs 0, the lowest in the window is int(0.35 * 6) + 1 = 3; layer order decides.
        ([7, 7, 7, 7, 7, 7], {}, [2, 3, 4, 5], 7),
        ([0.1, 0.1, 0.1], {"window": (0, 1)}, [0, 1, 2], 0.1),
        # cost(1) = Var(2, 3) = cost(2) = Var(1, 2): a tie goes to the lowest cut.
        ([1, 2, 3], {"window": (0, 1)}, [0, 1, 2], 1),
        ([1, 2, 3], {"window": (0, 1), "inclusive": False}, [1, 2], 1),
        ([5], {}, [0], 5),
        ([5], {"inclusive": False}, [0], 5),
        ([2, 4], {}, [0, 1], 2),
        ([4, 2], {"inclusive": False}, [0], 2),
        # Windows that hold no cut are widened until one is in.
        ([1, 2, 4], {"window": (1, 1)}, [1, 2], 2),
        ([0, 0, 0, 0], {"inclusive": False}, [2, 3], 0),
    ],
)
def test_cases_worked_by_hand(scores, options, selected, threshold, backend):
    mask, gamma = ops.variance_split(torch.tensor(scores, dtype=torch.float32), backend=backend, **options)
    assert mask.nonzero().flatten().tolist() == selected
    assert gamma.item() == pytest.approx(threshold)


@given(values=VALUES, power=st.integers(-20, 20))
def test_a_power_of_two_changes_nothing(backend_name, values, power):
    scores = torch.tensor(values, dtype=torch.float32)
    scaled = scores * 2.0**power
    assume(torch.equal(scaled / 2.0**power, scores) and bool(torch.isfinite(scaled).all()))
    mask, threshold = ops.variance_split(scores, backend=backend_name)
    scaled_mask, scaled_threshold = ops.variance_split(scaled, backend=backend_name)
    assert torch.equal(mask, scaled_mask)
    assert scaled_threshold == threshold * 2.0**power


@given(
    values=VALUES,
    status=st.lists(st.integers(0, 2), min_size=24, max_size=30),
    k=st.integers(0, 40),
    gamma=float32(),
)
def test_top_ranked_and_above(backend_name, values, status, k, gamma):
    status = (status * 2)[: len(values)]
    backend = _backend.load(backend_name, "cpu")
    tensors = torch.tensor(values, dtype=torch.float32), torch.tensor(status, dtype=torch.uint8)
    order = sorted((i for i, s in enumerate(status) if s), key=lambda i: (status[i], values[i] * (status[i] == 1), i))
    top = order[max(len(order) - k, 0) :]
    measured = [values[i] for i in top if status[i] == MEASURED]

    mask, threshold = backend.top_ranked(*tensors, k)
    assert mask.nonzero().flatten().tolist() == sorted(top)
    assert same(threshold.item(), min(measured, default=math.nan))

    mask, threshold = backend.above(*tensors, gamma)
    assert mask.tolist() == [s == 2 or (s == 1 and v >= gamma) for s, v in zip(status, values, strict=True)]
    assert threshold.item() == gamma


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_named(value, backend, ops_of):
    scores = torch.tensor([1.0, 2.0, value, value])
    with pytest.raises(LayerSelectError, match=r"scores\[2\] is (nan|-?inf)"):
        ops.variance_split(scores, backend=backend)
    with pytest.raises(ValueError, match=r"scores\[3\] is (nan|-?inf)"):
        ops_of.above(scores, torch.tensor([1, 1, 0, 1], dtype=torch.uint8), 0.0)


def call(window=(0.35, 0.65), splits=1, scores=(1.0, 2.0), **kwargs) -> tuple[Tensor, Tensor]:
    return ops.variance_split(torch.tensor(scores), window=window, splits=splits, **kwargs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": (0.6, 0.4)}, r"window is \(0\.6, 0\.4\)"),
        ({"window": (-0.1, 0.4)}, r"window is \(-0\.1, 0\.4\)"),
        ({"window": (0.1, 1.5)}, r"window is \(0\.1, 1\.5\)"),
        ({"window": (float("nan"), 1.0)}, r"window is \(nan, 1"),
        ({"splits": 0}, "splits is 0"),
        ({"scores": []}, "scores is empty"),
        ({"scores": [[1.0]]}, r"not a tensor of shape \(1, 1\)"),
        ({"scores": [1, 2]}, "not a tensor of shape .*int64"),
        ({"scores": [1.0] * 1025}, "scores has 1025 entries; at most 1024"),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments, message, backend):
    with pytest.raises(LayerSelectError, match=message):
        call(backend=backend, **arguments)


def test_status_is_checked(ops_of):
    scores = torch.ones(3)
    with pytest.raises(ValueError, match=r"status\[1\] is 3"):
        ops_of.above(scores, torch.tensor([0, 3, 1], dtype=torch.uint8), 0.0)
    with pytest.raises(ValueError, match="scores has 3 entries and status 2"):
        ops_of.above(scores, torch.ones(2, dtype=torch.uint8), 0.0)
    with pytest.raises(ValueError, match="status has dtype"):
        ops_of.above(scores, torch.ones(3), 0.0)
    with pytest.raises(ValueError, match="k is -1"):
        ops_of.top_ranked(scores, torch.ones(3, dtype=torch.uint8), -1)
    with pytest.raises(ValueError, match="gamma is NaN"):
        ops_of.above(scores, torch.ones(3, dtype=torch.uint8), float("nan"))


def test_other_float_dtypes_are_compared_as_float32(backend):
    scores = torch.tensor([1.0, 1.0 + 1e-12, 5.0, 5.0], dtype=torch.float64)
    mask, threshold = ops.variance_split(scores, backend=backend)
    assert mask.tolist() == [False, True, True, True] and threshold.dtype == torch.float32
