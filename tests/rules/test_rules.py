"""Each rule against what its definition says, for many numbers of layers."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layerselect import LayerSelectError, make_rule
from layerselect.rules import EXCLUDED, MEASURED, NEVER_MEASURED, available

from tests.helpers.simulation import variance_split
from tests.rules.choosing import bound, choose

LAYER_COUNTS = [1, 2, 3, 6, 12, 30, 80]


positive = st.floats(0, 1e6, width=32)


@given(st.lists(positive, min_size=1, max_size=80))
def test_variance_is_the_published_rule(scores):
    assert choose(bound("variance", len(scores)), scores) == variance_split(scores)


def test_variance_by_hand():
    # Costs of the cuts 1..5: 0.0 + Var(2,3,10,11,12) = 17.84; Var(1,2) + Var(3,10,11,12) = 0.25 + 12.5; Var(1,2,3) +
    # Var(10,11,12) = 2/3 + 2/3. So k = 3, gamma = 3: the layer with score 3 trains too.
    scores = [1.0, 2.0, 3.0, 10.0, 11.0, 12.0]
    assert choose(bound("variance", 6, window=[0, 1]), scores) == {2, 3, 4, 5}
    assert choose(bound("variance", 6, window=[0, 1], inclusive=False), scores) == {3, 4, 5}
    # The window (0.35, 0.65) of six layers keeps k - 1 in [2, 3].
    assert choose(bound("variance", 6), [1.0, 1.0, 1.0, 1.0, 1.0, 100.0]) == {2, 3, 4, 5}
    # A second split among {3, 10, 11, 12}: 3 against the rest, so k = 1 and, inclusive, nothing leaves.
    assert choose(bound("variance", 6, window=[0, 1], splits=2), scores) == {2, 3, 4, 5}
    assert choose(bound("variance", 6, window=[0, 1], splits=2, inclusive=False), scores) == {4, 5}


@given(st.lists(positive, min_size=1, max_size=80), st.integers(1, 80))
def test_topk_takes_the_highest_and_of_equals_the_later(scores, k):
    expected = sorted(range(len(scores)), key=lambda i: (scores[i], i))[-k:]
    assert choose(bound("topk", len(scores), k=k), scores) == set(expected)


@pytest.mark.parametrize(("p", "layers", "count"), [(0.5, 12, 6), (0.5, 5, 3), (0.1, 3, 1), (1.0, 7, 7), (0.25, 6, 2)])
def test_fraction_rounds_half_up_and_never_to_nothing(p, layers, count):
    assert choose(bound("fraction", layers, p=p), [float(i) for i in range(layers)]) == set(range(layers)).difference(
        range(layers - count)
    )


@given(st.lists(positive, min_size=1, max_size=40), positive)
def test_threshold(scores, gamma):
    assert choose(bound("threshold", len(scores), gamma=gamma), scores) == {
        i for i, score in enumerate(scores) if score >= gamma
    }


@pytest.mark.parametrize("layers", LAYER_COUNTS)
def test_all_and_fixed(layers):
    scores = [0.0] * layers
    assert choose(bound("all", layers), scores) == set(range(layers))
    assert choose(bound("fixed", layers, layers=[-1, "layers.0"]), scores) == {0, layers - 1}


@pytest.mark.parametrize("layers", LAYER_COUNTS)
def test_random_draws_every_layer_equally_often(layers):
    rule, draws = bound("random", layers, seed=1), 3000
    counts: Counter[int] = Counter()
    for _ in range(draws):
        chosen = choose(rule, [0.0] * layers)
        assert len(chosen) == max(1, layers // 2)
        counts.update(chosen)
    probability = max(1, layers // 2) / layers
    spread = math.sqrt(draws * probability * (1 - probability))
    for layer in range(layers):
        assert abs(counts[layer] - draws * probability) <= 5 * spread + 1e-9


def test_random_has_a_generator_of_its_own():
    torch.manual_seed(0)
    undisturbed = torch.rand(3)
    torch.manual_seed(0)
    first, second = bound("random", 10, seed=4), bound("random", 10, seed=4)
    draws = [choose(first, [0.0] * 10) for _ in range(5)]
    assert torch.equal(torch.rand(3), undisturbed)
    torch.rand(100)
    assert [choose(second, [0.0] * 10) for _ in range(5)] == draws
    assert [choose(bound("random", 10, seed=5), [0.0] * 10) for _ in range(5)] != draws
    # Its state continues the sequence.
    third = bound("random", 10, seed=9)
    third.load_state_dict(first.state_dict())
    assert choose(third, [0.0] * 10) == choose(first, [0.0] * 10)


NEVER, OUT = NEVER_MEASURED, EXCLUDED


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("topk", {"k": 1}, {4}),
        ("topk", {"k": 3}, {1, 4, 3}),
        ("fraction", {"p": 0.34}, {1, 4}),
        ("threshold", {"gamma": 5.0}, {1, 3, 4}),
        ("variance", {}, {1, 3, 4}),
        ("all", {}, {0, 1, 3, 4, 5}),
        ("fixed", {"layers": [0, 2]}, {0}),
    ],
)
def test_never_measured_ranks_above_and_not_finite_is_left_out(name, options, expected):
    scores = [1.0, math.nan, 50.0, 9.0, math.nan, 2.0]
    status = [MEASURED, NEVER, OUT, MEASURED, NEVER, MEASURED]
    # variance: of the measured 1, 2, 9 the window keeps k - 1 in [1, 1]; so k = 2, gamma = 2.
    if name == "variance":
        expected = expected | {5}
    assert choose(bound(name, 6, **options), scores, status) == expected


def test_names_and_options_in_text():
    assert {"variance", "all", "fixed", "topk", "fraction", "threshold", "random"} < set(available())
    assert make_rule("variance:window=[0,1];splits=2").config() == {
        "window": (0.0, 1.0),
        "inclusive": True,
        "splits": 2,
    }
    assert make_rule('fixed:layers=["a",2]').config() == {"layers": ["a", 2]}
    assert make_rule('fixed: layers = ["a;b=1"] ;').config() == {"layers": ["a;b=1"]}
    base = make_rule('probe-once:steps=2;base="variance:window=[0,1];splits=2"').config()["base"]
    assert base == {"name": "variance", "window": (0.0, 1.0), "inclusive": True, "splits": 2}
    assert make_rule("random", seed=7).config() == {"k": None, "seed": 7}
    assert make_rule("random:seed=3", seed=7).config()["seed"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nope", "no rule 'nope'"),
        ("topk:k=0", "k=0 is not a whole number of at least 1"),
        ("topk:k", "'k' is not of the form option=value"),
        ("variance:splits;window=[0,1]", "'splits' is not of the form option=value"),
        ("topk:k=3.4.5", "the value of 'k' is not JSON: '3.4.5'"),
        ("topk:k=", "the value of 'k' is not JSON: ''"),
        ("fixed", "cannot be built"),
        ("fixed:layers=[]", "selects nothing"),
        ("fixed:layers=[six]", "is not JSON"),
        *(
            (f"fixed:layers={value}", r"is no list; a single layer is layers=\[3\]")
            for value in ("99", '"abc"', '{"a":1}', "null")
        ),
        *((f"variance:window={value}", "is not a pair") for value in ("1", '"ab"', "[true,1]", "[0,1,1]", "null")),
        ("fraction:p=1.5", r"p=1.5 is not in \(0, 1\]"),
        ("threshold:gamma=NaN", "not a finite number"),
        ("variance:window=[0.7,0.2]", "not a pair"),
        ("variance:splits=3", "neither 1 nor 2"),
        ("all:k=1", "no option 'k'; it has none"),
    ],
)
def test_bad_rules(text, message):
    with pytest.raises(LayerSelectError, match=message):
        make_rule(text)


def test_options_that_do_not_fit_the_model():
    with pytest.raises(LayerSelectError, match="layer 6 is none of the 6 layers 'layers.0' to 'layers.5'"):
        bound("fixed", 6, layers=[6])
    with pytest.raises(LayerSelectError, match="k=7 is more than the 6 layers"):
        bound("random", 6, k=7)
    with pytest.raises(LayerSelectError, match="not one of rule 'topk'"):
        bound("topk", 6, k=1).load_state_dict({"generator": torch.zeros(1)})
