"""Which layers a frequency picks, and how well they fit the generator's own."""

import re

import numpy as np
import pytest
import torch
from layerselect import CostAware, FastSelector, Fixed, LayerSelectError, Threshold, TopK, VarianceSplit
from layerselect.transfer import alignment_ratio, own_frequency, pick_layers

from tests.helpers.models import plain, plain_loss


@pytest.mark.parametrize(
    ("frequency", "rule", "expected"),
    [
        # Six layers: the window allows cuts after 3 and after 4. Ascending 1 1 2 9 9 10: variances 2/9 + 2/9 after 3;
        # the layer of the threshold 2 is taken, too.
        ([1, 2, 1, 9, 10, 9], "variance", [1, 3, 4, 5]),
        ([1, 2, 1, 9, 10, 9], VarianceSplit(inclusive=False), [3, 4, 5]),
        ([1, 2, 1, 9, 10, 9], "topk:k=2", [4, 5]),  # of equal ones the later
        ([1, 2, 1, 9, 10, 9], TopK(1), [4]),
        ([1, 2, 1, 9, 10, 9], "fraction:p=0.5", [3, 4, 5]),
        ([1, 2, 1, 9, 10, 9], Threshold(2), [1, 3, 4, 5]),
        ([1, 2, 1, 9, 10, 9], "all", [0, 1, 2, 3, 4, 5]),
        ([1, 2, 1, 9, 10, 9], "upper:p=0.5", [3, 4, 5]),
        ([1, 2, 1, 9, 10, 9], "fixed:layers=[0,-1]", [0, 5]),
        ([1, 2, 1, 9, 10, 9], Fixed([2], probe=True), [2]),
        ([3], "variance", [0]),
        (np.array([5, 0, 5]), "topk:k=2", [0, 2]),
        (torch.tensor([5, 0, 5]), "topk:k=2", [0, 2]),
    ],
)
def test_picking_by_frequency(frequency, rule, expected, caplog):
    assert pick_layers(frequency, rule) == expected
    assert caplog.text == ""


@pytest.mark.parametrize("rule", ["variance", "topk:k=1", "fraction:p=0.5"])
@pytest.mark.parametrize("count", [0, 7])
def test_equal_frequencies_say_nothing(caplog, rule, count):
    assert pick_layers([count] * 4, rule) == [0, 1, 2, 3]
    assert f"each of the 4 layers was selected {count} times" in caplog.text


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("all", [0, 1, 2]), ("fixed:layers=[1]", [1]), ("upper", [1, 2]), ("threshold:gamma=7", [0, 1, 2])],
)
def test_equal_frequencies_are_no_matter_where_nothing_is_cut(caplog, rule, expected):
    assert pick_layers([7] * 3, rule) == expected
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("frequency", "rule", "words"),
    [
        ([1, 2], "random:k=1", "rule 'random' reads no scores"),
        ([1, 2], "lisa", "rule 'lisa' reads no scores"),
        ([1, 2], "none", "rule 'none' picks none"),
        ([1, 2], "weight-norm", "rule 'weight-norm' reads no scores"),
        ([1, 2], CostAware(), "rule 'cost-aware' needs the model"),
        ([1, 2], "threshold:gamma=3", "picks none of 2 layers that were selected up to 2 times"),
        ([1, 2], "fixed:layers=[2]", "layer 2 is none of the 2 layers"),
        ([1, 2], "best", "no rule 'best'"),
        ([], "variance", "frequency="),
        ([1, -1], "variance", "frequency="),
        ([1.0, 2.5], "variance", "frequency="),
        (["a"], "variance", "frequency="),
        ([[1, 2]], "variance", "frequency="),
    ],
)
def test_what_cannot_pick(frequency, rule, words):
    with pytest.raises(LayerSelectError, match=re.escape(words)):
        pick_layers(frequency, rule)


def test_the_rule_of_a_selector_is_left_alone():
    rule = Fixed([3])
    FastSelector(plain(), rule, mode="observe")
    bound = rule._mask.clone()
    with pytest.raises(LayerSelectError, match="layer 3"):
        pick_layers([1, 2], rule)
    assert pick_layers([1, 2, 3, 4], rule) == [3]
    assert torch.equal(rule._mask, bound)


@pytest.mark.parametrize(
    ("chosen", "own", "expected"),
    [
        ([0, 1, 2], [1, 2, 3, 4], 0.5),
        ([1], [1], 1.0),
        ([], [1], 0.0),
        ([5, 6], [1], 0.0),
        ([1, 1, 2], [2, 2, 3, 3], 0.5),
    ],
)
def test_alignment_ratio(chosen, own, expected):
    assert alignment_ratio(chosen, own) == expected


def test_no_alignment_with_nothing():
    with pytest.raises(LayerSelectError, match=r"own=\[\]"):
        alignment_ratio([1], [])


def test_only_steps_that_measured_all_layers_count():
    nan = float("nan")
    history = {
        "scores": np.array([[1, 2, 3], [9, 1, 1], [3, 2, 1], [nan, 2, 3], [1, 3, 2], [1, 2, np.inf]], np.float32),
        "trained": np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]], bool),
    }
    frequency, steps = own_frequency(history, "topk:k=2")
    assert frequency.dtype == np.int64
    assert frequency.tolist() == [1, 3, 2]  # of rows 0, 2 and 4: {1, 2}, {0, 1}, {1, 2}
    assert steps == 3
    none = {name: column[1:2] for name, column in history.items()}
    frequency, steps = own_frequency(none)
    assert (frequency.tolist(), steps) == ([0, 0, 0], 0)


@pytest.mark.parametrize("rule", ["variance", "topk:k=2", Threshold(0.3)])
def test_it_is_what_a_selector_counts(rule):
    model = plain()
    with FastSelector(model, rule, mode="observe") as selector:
        for step in range(6):
            plain_loss(model, step).backward()
            selector.step()
            model.zero_grad()
        frequency, steps = own_frequency(selector.history.arrays(), rule)
    assert steps == 6
    assert frequency.tolist() == selector.frequency.tolist()
    assert frequency.sum() > 0


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ({}, "lacks ['scores', 'trained']"),
        ({"scores": np.zeros((2, 3)), "trained": np.zeros((2, 2), bool)}, "(2, 3) and trained of shape (2, 2)"),
        ({"scores": np.zeros(3), "trained": np.zeros(3, bool)}, "both must be [n, L]"),
    ],
)
def test_no_history(history, words):
    with pytest.raises(LayerSelectError, match=re.escape(words)):
        own_frequency(history)


def test_no_history_of_rules_that_read_no_scores():
    history = {"scores": np.ones((1, 3), np.float32), "trained": np.ones((1, 3), bool)}
    with pytest.raises(LayerSelectError, match="rule 'random' reads no scores"):
        own_frequency(history, "random:k=1")
