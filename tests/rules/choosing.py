"""Rules by themselves, without a selector: what they choose, and how often."""

from __future__ import annotations

import math
from collections import Counter

import torch
from layerselect import make_rule
from layerselect.rules import MEASURED


def bound(name: str, count: int, **options):
    rule = make_rule(name, **options)
    rule.bind([f"layers.{i}" for i in range(count)])
    return rule


def choose(rule, scores: list[float], status: list[int] | None = None) -> set[int]:
    selection = rule.select(
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(status if status is not None else [MEASURED] * len(scores), dtype=torch.uint8),
    )
    assert selection.mask.dtype == torch.bool and selection.mask.shape == (len(scores),)
    assert selection.threshold.dtype == torch.float32 and selection.threshold.shape == ()
    return set(selection.mask.nonzero().flatten().tolist())


def draws(rule, layers: int, count: int) -> list[frozenset[int]]:
    """``count`` selections of a rule that looks at no scores."""
    return [frozenset(choose(rule, [math.nan] * layers)) for _ in range(count)]


def assert_frequencies(observed: Counter, expected: dict, total: int) -> None:
    """Pearson's statistic of counts over ``total`` independent draws from the distribution ``expected``, against its
    mean plus six of its standard deviations: a right rule fails once in many thousand runs, and the runs are seeded.
    """
    assert math.isclose(sum(expected.values()), 1.0, rel_tol=1e-9)
    assert sum(observed.values()) == total and set(observed) <= {k for k, p in expected.items() if p > 0}
    statistic = sum((observed[k] - total * p) ** 2 / (total * p) for k, p in expected.items() if p > 0)
    freedom = sum(p > 0 for p in expected.values()) - 1
    assert statistic <= freedom + 6 * math.sqrt(2 * freedom), (statistic, freedom)


def assert_uniform(sets: list[frozenset[int]], layers: int) -> None:
    """Sets of one size, drawn uniformly without replacement: each layer, and each pair of layers, is as frequent as it
    must be, within six standard deviations of the count."""
    size, total = len(sets[0]), len(sets)
    assert {len(s) for s in sets} == {size}
    single = size / layers
    pair = single * (size - 1) / (layers - 1) if layers > 1 else 0.0
    counts = Counter(layer for s in sets for layer in s)
    pairs = Counter((a, b) for s in sets for a in s for b in s if a < b)
    for a in range(layers):
        assert abs(counts[a] - total * single) <= 6 * math.sqrt(total * single * (1 - single)) + 1e-9
        for b in range(a + 1, layers):
            assert abs(pairs[a, b] - total * pair) <= 6 * math.sqrt(total * pair * (1 - pair)) + 3


def next_after_reload(rule, fresh, layers: int, count: int) -> tuple[list, list]:
    """The next selections of ``rule``, and those of ``fresh`` with its state: they must agree."""
    fresh.load_state_dict(rule.state_dict())
    return draws(rule, layers, count), draws(fresh, layers, count)
