"""IST against a simulation written from the authors' public code, and its draws against exact probabilities."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from layerselect import FastSelector, Ist, LayerSelectError, make_rule

from tests.helpers.models import plain
from tests.rules.choosing import assert_frequencies, choose, draws, next_after_reload


def ready(layers: int, probe, **options) -> Ist:
    rule = make_rule("ist", **options)
    rule.ablation = probe
    rule.bind([f"layers.{i}" for i in range(layers)])
    return rule


def with_values(rule: Ist, values) -> Ist:
    rule.load_state_dict({**rule.state_dict(), "values": torch.tensor(values, dtype=torch.float64)})
    return rule


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def harm(scales) -> float:
    """A loss in which layer l is worth l + 1: what suppressing it costs."""
    return 0.3 + 0.05 * sum((1 - scale) * (layer + 1) / len(scales) for layer, scale in enumerate(scales))


class Recorder:
    """A probe that remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, frozenset[int], float]] = []

    def __call__(self, scales, number):
        assert set(scales) <= {1.0, 0.25}
        loss = harm(scales)
        self.calls.append((number, frozenset(i for i, s in enumerate(scales) if s == 0.25), loss))
        return torch.tensor(loss, dtype=torch.float64) if number % 2 else loss


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 7, 12, 32, 80])
def test_updates_to_the_number(layers):
    """What was suppressed is random; everything that follows from it is not."""
    probe = Recorder()
    rule = ready(layers, probe, update_every=4, seed=layers)
    chosen = draws(rule, layers, 4 * 6 + 1)
    assert {len(s) for s in chosen} == {max(1, layers // 4)}
    suppressed = max(1, layers // 2)
    probes = min(3, math.comb(layers, suppressed))
    assert [number for number, _, _ in probe.calls] == [n for n in range(6) for _ in range(probes)]
    values = [0.0] * layers
    for number in range(6):
        sets = [(s, loss) for n, s, loss in probe.calls if n == number]
        assert all(len(s) == suppressed for s, _ in sets) and len({s for s, _ in sets}) == probes
        rewards = [math.exp(-loss) for _, loss in sets]
        mean = math.fsum(rewards) / probes
        p = [1 / (1 + math.exp(-v)) for v in values]
        for (layers_of_set, _), reward in zip(sets, rewards, strict=True):
            for layer in layers_of_set:
                values[layer] += 10 * (reward - mean) * p[layer] * (1 - p[layer])
    assert rule.state_dict()["values"].tolist() == pytest.approx(values, rel=1e-9, abs=1e-12)
    assert layers == 1 or any(values)


def subset_probabilities(weights, size: int) -> dict[frozenset[int], float]:
    """Of drawing one after the other without replacement."""
    result: Counter[frozenset[int]] = Counter()
    for order in itertools.permutations(range(len(weights)), size):
        probability, left = 1.0, sum(weights)
        for layer in order:
            probability *= weights[layer] / left
            left -= weights[layer]
        result[frozenset(order)] += probability
    return dict(result)


@pytest.mark.parametrize(
    ("values", "fraction"), [([0.0, 0.0], 0.5), ([2.0, -1.0, 0.5], 0.34), ([3, 0, -3, 1, -1], 0.4)]
)
def test_layers_to_train_are_drawn_by_importance(values, fraction):
    layers, total = len(values), 6000
    rule = with_values(ready(layers, None, train_fraction=fraction, update_every=10**9, seed=1), values)
    expected = subset_probabilities(sigmoid(np.negative(values)).tolist(), max(1, int(layers * fraction)))
    assert_frequencies(Counter(draws(rule, layers, total)), expected, total)


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [3, 0, -3, 1, -1]])
def test_layers_to_suppress_are_drawn_by_unimportance(values):
    layers, total, first = len(values), 1500, []

    def probe(scales, number):
        if len(first) == number:  # the first draw of an update is free, the others must differ from it
            first.append(frozenset(i for i, s in enumerate(scales) if s < 1))
        return 1.0  # all the same: no update

    rule = with_values(ready(layers, probe, update_every=1, seed=5), values)
    draws(rule, layers, total + 1)
    assert rule.state_dict()["values"].tolist() == values
    assert_frequencies(Counter(first), subset_probabilities(sigmoid(values).tolist(), layers // 2), total)


def test_eighty_layers_are_drawn_as_numpy_draws_them():
    values = np.linspace(-3, 3, 80)
    total, size = 3000, 20
    rule = with_values(ready(80, None, update_every=10**9, seed=2), values.tolist())
    ours = Counter(layer for s in draws(rule, 80, total) for layer in s)
    weights = sigmoid(-values)
    generator = np.random.default_rng(0)
    theirs = Counter(
        int(layer)
        for _ in range(total)
        for layer in generator.choice(80, size, replace=False, p=weights / weights.sum())
    )
    for layer in range(80):
        p = (ours[layer] + theirs[layer]) / (2 * total)
        assert abs(ours[layer] - theirs[layer]) <= 6 * math.sqrt(2 * total * p * (1 - p)) + 3


def simulated_values(layers: int, updates: int, seed: int) -> np.ndarray:
    """The authors' loop, with a generator of numpy's."""
    generator = np.random.default_rng(seed)
    importance = np.zeros(layers)
    for _ in range(updates):
        prob = sigmoid(importance)
        selects: list[tuple[int, ...]] = []
        while len(selects) < 3:
            select = tuple(sorted(generator.choice(layers, layers // 2, replace=False, p=prob / prob.sum())))
            if select not in selects:
                selects.append(select)
        rewards = [math.exp(-harm([0.25 if i in select else 1.0 for i in range(layers)])) for select in selects]
        rewards = [reward - np.mean(rewards) for reward in rewards]
        for k in range(3):
            for i in selects[k]:
                importance[i] += rewards[k] * prob[i] * (1 - prob[i]) * 10
    return importance


def test_what_is_learned_is_what_the_simulation_learns():
    layers, updates, runs = 8, 40, 30
    ours = []
    for seed in range(runs):
        rule = ready(layers, lambda scales, number: harm(scales), update_every=1, seed=seed)
        draws(rule, layers, updates + 1)
        ours.append(rule.state_dict()["values"].numpy())
    theirs = np.array([simulated_values(layers, updates, seed) for seed in range(runs)])
    ours = np.array(ours)
    spread = np.sqrt((ours.var(0) + theirs.var(0)) / runs)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) <= 6 * spread).all()
    # The layer that is missed least has become the least likely to train.
    assert ours.mean(0).argmax() == 0 and ours.mean(0).argmin() == layers - 1
    assert ours.mean(0)[0] - ours.mean(0)[-1] > 10 * spread.max()


def test_a_loss_that_is_not_finite_changes_nothing(caplog):
    rule = ready(6, lambda scales, number: math.nan if number == 1 else harm(scales), update_every=1)
    draws(rule, 6, 2)
    before = rule.state_dict()["values"]
    draws(rule, 6, 1)
    assert torch.equal(rule.state_dict()["values"], before) and before.any()
    assert "an ablation's loss is not finite" in caplog.text


@pytest.mark.parametrize("done", [0, 3, 5, 11])
def test_resumes_between_updates(done):
    options = {"update_every": 5, "probe": lambda scales, number: harm(scales)}
    rule = ready(9, seed=3, **options)
    draws(rule, 9, done)
    ours, theirs = next_after_reload(rule, ready(9, seed=8, **options), 9, 20)
    assert ours == theirs


def test_has_a_generator_of_its_own():
    torch.manual_seed(0)
    undisturbed = torch.rand(2)
    torch.manual_seed(0)
    probe = Recorder()
    first = draws(ready(9, probe, seed=4, update_every=2), 9, 30)
    assert torch.equal(torch.rand(2), undisturbed)
    assert draws(ready(9, Recorder(), seed=4, update_every=2), 9, 30) == first
    assert draws(ready(9, Recorder(), seed=5, update_every=2), 9, 30) != first


def test_excluded_layers_and_the_numbers_of_layers():
    rule = ready(4, None, train_fraction=1.0)
    assert choose(rule, [0.0] * 4, [1, 0, 1, 1]) == {0, 2, 3}
    assert {len(s) for s in draws(ready(11, None, train_fraction=0.3), 11, 5)} == {3}


def test_a_selector_wants_a_probe():
    with pytest.raises(LayerSelectError, match="rule 'ist' needs an ablation: build Ist.., set its attribute ablation"):
        FastSelector(plain(), "ist")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ist:update_every=0", "update_every=0 is not a whole number"),
        ("ist:ablations=1", "nothing to compare with"),
        ("ist:suppress=1", r"suppress=1 is not in \[0, 1\)"),
        ("ist:rate=-1", "rate=-1 is not a number above 0"),
        ("ist:train_fraction=0", r"train_fraction=0 is not in \(0, 1\]"),
        ("ist:suppress_fraction=2", r"suppress_fraction=2 is not in \(0, 1\]"),
        ("ist:probe=1", "no option 'probe'"),
    ],
)
def test_bad_options(text, message):
    with pytest.raises(LayerSelectError, match=message):
        make_rule(text)
