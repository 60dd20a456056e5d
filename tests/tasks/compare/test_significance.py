"""The paired test against scikit-learn's F1, loops over samples, and cases worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerselect.metrics import sari
from layerselect.tasks.compare import TASKS, holm
from layerselect.tasks.compare import paired_bootstrap as bootstrap
from layerselect.tasks.compare.significance import macro_f1
from sklearn.metrics import f1_score


def one_hot(classes, count):
    return np.eye(count, dtype=bool)[classes]


def paired_bootstrap(truth, ours, theirs, **options):
    def quality(predicted):
        return lambda weights: macro_f1(weights, truth, predicted)

    return bootstrap(len(truth), list(map(quality, ours)), list(map(quality, theirs)), **options)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(5, 40))
def test_macro_f1_is_scikit_learns_over_the_labels_that_occur(seed, classes, count):
    random = np.random.default_rng(seed)
    truth, predicted = random.integers(classes, size=(2, count))
    draws = random.integers(count, size=(3, count))
    weights = np.stack([np.bincount(draw, minlength=count) for draw in draws]).astype(float)
    ours = macro_f1(weights, one_hot(truth, classes), one_hot(predicted, classes))
    for row, draw in enumerate(draws):
        occurring = np.unique(truth[draw])
        theirs = f1_score(truth[draw], predicted[draw], labels=occurring, average="macro", zero_division=0.0)
        assert ours[row] == pytest.approx(theirs, abs=1e-12)


def test_several_labels():
    truth = np.array([[1, 1], [1, 0], [0, 1]], dtype=bool)
    predicted = np.array([[1, 0], [1, 1], [0, 1]], dtype=bool)
    theirs = f1_score(truth, predicted, average="macro")
    assert macro_f1(np.ones((1, 3)), truth, predicted)[0] == pytest.approx(theirs)


def test_the_same_predictions_differ_by_nothing():
    truth = one_hot(np.arange(60) % 3, 3)
    predicted = one_hot(np.arange(60) % 2, 3)
    difference = paired_bootstrap(truth, [predicted] * 3, [predicted] * 3)
    assert (difference.mean, difference.low, difference.high, difference.p) == (0.0, 0.0, 0.0, 1.0)


def test_a_perfect_model_beats_a_constant_one():
    truth = one_hot(np.arange(90) % 3, 3)
    constant = one_hot(np.zeros(90, dtype=int), 3)
    difference = paired_bootstrap(truth, [truth] * 3, [constant] * 3)
    assert difference.mean == pytest.approx(1 - 0.5 / 3)
    assert difference.low > 0.7
    assert difference.p < 0.01
    turned = paired_bootstrap(truth, [constant] * 3, [truth] * 3)
    assert turned.mean == -difference.mean


def test_chance_predictions_are_found_different_about_as_often_as_the_level_says():
    """Both methods guess: at a level of 5 %, few of 60 comparisons may say that they differ."""
    random = np.random.default_rng(0)
    found = 0
    for number in range(60):
        truth = one_hot(random.integers(3, size=200), 3)
        guesses = [one_hot(random.integers(3, size=200), 3) for _ in range(6)]
        found += paired_bootstrap(truth, guesses[:3], guesses[3:], samples=300, seed=number).p < 0.05
    assert found <= 12


def test_seeds_widen_the_interval():
    """One seed in three is better, the others are equal: with seeds drawn too, no difference is shown."""
    truth = one_hot(np.arange(300) % 3, 3)
    worse = truth.copy()
    worse[:60] = one_hot((np.arange(60) + 1) % 3, 3)
    difference = paired_bootstrap(truth, [truth, worse, worse], [worse, worse, worse])
    assert difference.mean > 0.05
    assert difference.low <= 0.0


def test_runs_that_cannot_be_paired_are_refused():
    truth = one_hot(np.arange(4) % 2, 2)
    with pytest.raises(ValueError, match="0 and 1"):
        paired_bootstrap(truth, [], [truth])
    with pytest.raises(ValueError, match="2 and 1"):
        paired_bootstrap(truth, [truth, truth], [truth])


def test_holm_by_hand():
    # Sorted .01, .02, .03, .04 times 4, 3, 2, 1, made non-decreasing.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


TEXTS = ["he go home now", "we sees it", "all is well here", "the the cat sat", "it rain", "a fox runs"]


def test_a_revision_run_is_compared_by_its_sari_over_the_drawn_examples():
    random = np.random.default_rng(0)
    rows = [
        {"source": TEXTS[i], "prediction": TEXTS[j], "references": [TEXTS[k], TEXTS[m]]}
        for i, j, k, m in random.integers(len(TEXTS), size=(12, 4))
    ]
    quality = TASKS["revise"].compared(rows)
    draws = random.integers(12, size=(5, 12))
    ours = quality(np.stack([np.bincount(draw, minlength=12) for draw in draws]).astype(float))
    for value, draw in zip(ours, draws, strict=True):
        drawn = [rows[i] for i in draw]
        theirs = sari(*([row[key] for row in drawn] for key in ("source", "prediction", "references")))
        assert value == pytest.approx(theirs.sari, abs=1e-9)


def test_an_intention_run_is_compared_by_its_macro_f1():
    rows = [
        {"labels": ["a"], "predicted": ["a"]},
        {"labels": ["b"], "predicted": ["a"]},
        {"labels": ["b"], "predicted": ["b"]},
    ]
    value = TASKS["intent"].compared(rows)(np.ones((1, 3)))[0]
    assert value == pytest.approx(f1_score([0, 1, 1], [0, 0, 1], average="macro"))
