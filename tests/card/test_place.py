"""Placements against brute force."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from layerselect import LayerSelectError
from layerselect.card.coupling import coupling as coupling_of
from layerselect.card.place import Placer
from layerselect.costs.counted import LayerCosts

from tests.card.made import made


def value(strengths: np.ndarray, coupling: np.ndarray, chosen: tuple[int, ...]) -> float:
    """The gain of a set by looking at every choice of the scales that are above 0: the best one solves rho alpha =
    r.
    """
    best = 0.0
    for count in range(1, len(chosen) + 1):
        for positive in combinations(chosen, count):
            rows = list(positive)
            alpha = np.linalg.lstsq(coupling[np.ix_(rows, rows)], strengths[rows], rcond=None)[0]
            if (alpha >= -1e-12).all():
                best = max(best, alpha @ strengths[rows] - alpha @ coupling[np.ix_(rows, rows)] @ alpha / 2)
    return best


def drawn(seed: int, layers: int = 6) -> tuple[np.ndarray, np.ndarray, LayerCosts]:
    """Strengths, couplings that are those of vectors with no negative products, and costs."""
    generator = np.random.default_rng(seed)
    vectors = generator.random((layers, 4)) ** 3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # Strengths as they come from one error vector, as r_l = <error, direction>.
    strengths = vectors @ generator.random(4)
    ones = tuple(generator.uniform(0.5, 1.5, layers))
    return strengths, vectors @ vectors.T, LayerCosts(ones, ones, tuple(generator.uniform(0.01, 0.2, layers)), 1.0)


@pytest.mark.parametrize("seed", range(8))
def test_gain_is_the_best_choice_of_scales(seed):
    strengths, coupling, costs = drawn(seed)
    placer, whole = Placer(strengths, coupling, costs), value(strengths, coupling, tuple(range(6)))
    for chosen in [(0,), (1, 4), (0, 2, 3), (0, 1, 2, 3, 4, 5)]:
        assert placer.gain(chosen) * whole == pytest.approx(value(strengths, coupling, chosen), rel=1e-6)


@pytest.mark.parametrize("shared", [0.0, 0.5, 2.0, 20.0])
def test_equations_and_ascent_find_the_same_scales(shared):
    generator = np.random.default_rng(int(shared * 10))
    pairs = coupling_of(generator.normal(size=(7, 60)) + shared * generator.normal(size=(1, 60)))
    placer = Placer(generator.random(7), pairs, LayerCosts((1.0,) * 7, (1.0,) * 7, (0.1,) * 7))
    for chosen in ([], [3], [0, 5, 6], [1, 2, 3, 4]):
        others = [layer for layer in range(7) if layer not in chosen]
        solved = placer._solved(chosen, others)
        assert np.allclose(solved, placer._ascended(np.zeros(7), chosen, others), atol=1e-5)


def test_performance_comes_near_the_best_set():
    shares = []
    for seed in range(30):
        strengths, coupling, costs = drawn(seed)
        placer, whole = Placer(strengths, coupling, costs), value(strengths, coupling, tuple(range(6)))
        for k in (1, 2, 3):
            best = max(value(strengths, coupling, chosen) for chosen in combinations(range(6), k)) / whole
            placement = placer.place(k)
            assert len(placement.layers) <= k
            assert placement.gain == pytest.approx(placer.gain(placement.layers), rel=1e-6)
            shares.append(placement.gain / best)
            assert k > 1 or shares[-1] == pytest.approx(1.0)
    # Greedy is not the best of all sets, but near it.
    assert min(shares) > 0.95 and np.mean(shares) > 0.998


@pytest.mark.parametrize("seed", range(8))
def test_performance_within_a_budget_comes_near_the_best_set(seed):
    strengths, coupling, costs = drawn(seed)
    placer, whole = Placer(strengths, coupling, costs), value(strengths, coupling, tuple(range(6)))
    sets = [chosen for k in range(1, 7) for chosen in combinations(range(6), k)]
    for budget in (0.7, 0.8, 0.9, 1.0):
        best = max(value(strengths, coupling, s) for s in sets if placer.cost(s) <= budget) / whole
        placement = placer.place(budget=budget)
        assert placement.cost <= budget + 1e-12
        assert placement.cost == pytest.approx(costs.step_cost([i in placement.layers for i in range(6)]))
        assert placement.gain >= 0.97 * best


@pytest.mark.parametrize("seed", range(8))
def test_where_nothing_is_coupled_every_placement_is_the_best_one(seed):
    strengths, _, costs = drawn(seed)
    placer = Placer(strengths, np.eye(6), costs)
    for k in range(1, 7):
        assert placer.place(k).layers == sorted(np.argsort(-strengths)[:k].tolist())
    sets = [chosen for k in range(1, 7) for chosen in combinations(range(6), k)]
    gains = {s: float((strengths[list(s)] ** 2).sum() / (strengths**2).sum()) for s in sets}
    for k in (2, 4):
        best = max(gains[s] for s in sets if len(s) <= k)
        cheapest = min(placer.cost(s) for s in sets if len(s) <= k and gains[s] >= 0.9 * best)
        assert placer.place(k, objective="cost").cost == pytest.approx(cheapest, abs=0.02)
        worth = max(gains[s] - placer.added_cost(s) for s in sets if len(s) <= k)
        balanced = placer.place(k, objective="balanced")
        assert balanced.gain - placer.added_cost(balanced.layers) == pytest.approx(worth, abs=0.01)


def test_strongly_coupled_layers_are_not_paid_for_twice():
    coupling = np.array([[1.0, 0.99, 0.0], [0.99, 1.0, 0.0], [0.0, 0.0, 1.0]])
    card = made([3.0, 2.95, 1.0], coupling)
    assert card.place(k=2) == [0, 2]
    assert made([3.0, 2.95, 1.0]).place(k=2) == [0, 1]


def test_as_many_layers_as_asked_for_where_they_fit_and_are_worth_anything_alone():
    same = np.where(np.eye(5) == 1, 1.0, 0.999)  # the lowest layer does what all do
    card = made([5.0, 1.0, 2.0, -1.0, 3.0], same)
    assert card.place(k=3) == [0, 2, 4]
    assert card.place(k=5) == [0, 1, 2, 4]
    assert len(made([5.0, 1.0, 2.0, 1.5, 3.0], same).place(k=4, budget=0.8)) < 4
    placement = card.propose(k=3, objective="cost")
    assert placement.layers == [0]


@pytest.mark.parametrize("seed", range(8))
def test_never_fewer_than_asked_for(seed):
    strengths, coupling, costs = drawn(seed)
    placer = Placer(strengths, coupling, costs)
    for k in range(1, 7):
        assert len(placer.place(k).layers) == k
        for budget in (0.7, 0.85):
            placement = placer.place(k, budget=budget)
            others = set(range(6)) - set(placement.layers)
            fits = [new for new in others if placer.cost([*placement.layers, new]) <= budget]
            assert placement.cost <= budget + 1e-12 and (len(placement.layers) == k or not fits)


def test_what_training_layers_alone_gave_counts_where_it_is_known():
    card = made([5.0, 1.0, 2.0])
    tried = replace(
        card,
        layers=[replace(layer, performance=gain) for layer, gain in zip(card.layers, [-0.1, 0.5, 0.02], strict=True)],
    )
    assert card.place(k=1) == [0] and tried.place(k=1) == [1] and tried.place(k=3) == [1, 2]
    assert tried.strengths == pytest.approx([0.0, 1.0, 0.2])
    assert list(tried.rank_pattern(7 * 4).rank_pattern.values()) == [3, 1]
    part = replace(card, layers=[replace(card.layers[0], performance=0.1), *card.layers[1:]])
    assert part.place(k=2) == card.place(k=2)
    none = replace(card, layers=[replace(layer, performance=-0.1) for layer in card.layers])
    assert "trained alone" in none.doubt() and not tried.doubt()


def test_objectives_pull_apart():
    # The bottom layer is best, the top ones nearly as good together, and a step that stops above costs less.
    card = made([3.0, 0.1, 0.1, 2.0, 2.1])
    assert card.place(k=1) == [0]
    assert card.place(k=2) == [0, 4]
    assert card.place(k=3) == [0, 3, 4]
    assert card.place(budget=0.75) == [3, 4]
    assert card.place(k=2, objective="balanced") == [3, 4]
    cheap = card.propose(objective="cost")
    assert cheap.gain >= 0.9 and cheap.cost <= card.propose(5).cost


def test_negative_figures_give_nothing():
    card = made([-1.0, 0.6, -3.0])
    assert card.place(k=3) == [1] and card.propose(k=3).gain == 1.0
    assert Placer(np.array([-1.0, -2.0]), np.eye(2), made([1.0, 1.0]).costs).place(1).gain == 0.0


@pytest.mark.parametrize("tried", [False, True])
def test_an_unsure_card_places_by_depth_and_cost(caplog, tried):
    # Noise would say layer 0, and that layers 2 and 3 do the same.
    pairs = np.eye(4)
    pairs[2, 3] = pairs[3, 2] = 1.0
    card = made([0.4, -0.1, 0.1, 0.2], pairs)
    if tried:
        card = replace(card, layers=[replace(layer, performance=-0.1) for layer in card.layers])
    found = card.propose(k=2)
    assert found.layers == [2, 3] and math.isnan(found.gain) and found.doubt == card.doubt() != ""
    assert found.chosen_by == "depth and cost (an unsure Layer Card, place(k=2, objective='performance'))"
    assert "placements go by depth and cost, upper layers first" in caplog.text
    budget = card.propose(budget=0.7)
    assert budget.layers == list(range(4 - len(budget.layers), 4)) and budget.cost <= 0.7
    # Ranks are shared out evenly among the chosen, even where no figure is above 0.
    assert set(card.propose(k=2, rank_budget=7 * 6).ranks.values()) == {3}


@pytest.mark.parametrize(("stability", "unsure"), [(0.74, True), (math.nan, True), (0.8, False), (None, False)])
def test_an_order_that_is_not_stable_is_told_with_the_placement(caplog, stability, unsure):
    card = replace(made([0.9, 0.1, 0.7, 0.2]), stability=stability)
    found = card.propose(k=2)
    assert found.layers == [0, 2] and found.gain > 0  # the figures are no noise, so they are gone by
    assert ("is not stable" in found.doubt) is unsure and found.doubt == card.doubt() and not card.noise()
    assert ("this placement is unsure: the order of the layers is not stable" in caplog.text) is unsure
    assert "depth and cost" not in caplog.text
    tried = replace(card, layers=[replace(layer, performance=0.1) for layer in card.layers])
    assert not tried.doubt()  # layers that were trained alone need no such order


def test_the_front_rises():
    strengths, coupling, costs = drawn(3)
    placer = Placer(strengths, coupling, costs)
    front = placer.front()
    assert all(a.cost < b.cost and a.gain < b.gain for a, b in pairwise(front))
    assert front[-1].gain == max(p.gain for p in placer._family(None))
    for one in placer._family(None):
        assert any(p.cost <= one.cost and p.gain >= one.gain * (1 - 1e-8) for p in front)


def test_eighty_layers_are_placed_in_seconds():
    generator = np.random.default_rng(0)
    vectors = np.abs(generator.standard_normal((80, 120)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ones = (1.0,) * 80
    placer = Placer(generator.random(80), vectors @ vectors.T, LayerCosts(ones, ones, (0.1,) * 80))
    assert len(placer.place(8).layers) <= 8


def test_peft_takes_what_is_returned():
    from peft import LoraConfig

    config = LoraConfig(layers_to_transform=made([3.0, 0.1, 2.0]).place(k=2), target_modules=["q_proj"])
    assert config.layers_to_transform == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "would take all layers: give one of them"),
        ({"k": 0}, "k=0 is not a whole number"),
        ({"k": 1.5}, "k=1.5 is not a whole number"),
        ({"k": "2"}, "k='2' is not a whole number"),
        ({"budget": "half"}, "budget is 'half' and must be a number"),
        ({"budget": [0.5]}, "budget is a list of 1 and must be a number"),
        ({"budget": float("nan")}, "budget=nan is not in"),
        ({"budget": 0.0}, r"budget=0.0 is not in \(0, 1\]"),
        ({"budget": 0.01}, "budget=0.01 fits no layer"),
        ({"k": 1, "objective": "speed"}, "objective='speed' is not one of performance, cost, balanced"),
    ],
)
def test_what_cannot_be_placed_is_said(arguments, message):
    with pytest.raises(LayerSelectError, match=message):
        made([3.0, 0.1, 2.0]).place(**arguments)
