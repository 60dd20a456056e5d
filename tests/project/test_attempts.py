"""Attempts from kept predictions: what is chosen is chosen on the other folds."""

from __future__ import annotations

import numpy as np
import pytest

attempts = pytest.importorskip("tools.attempts", reason="the tools are not beside the tests")
PLACE = attempts.Path(__file__).parents[2] / "docs" / "measurements" / "iterater-minilm"


@pytest.fixture(scope="module")
def kept():
    return attempts.Predictions(PLACE)


def test_qualities_are_those_of_scikit_learn(kept):
    from sklearn.metrics import accuracy_score, f1_score

    scores = kept.of_baseline("logistic regression")
    truth = np.concatenate([np.asarray(each.labels).argmax(axis=1) for each in kept._truth])
    said = np.concatenate(scores).argmax(axis=1)
    macro, accuracy, rare = kept.facts(scores)
    assert macro == pytest.approx(f1_score(truth, said, average="macro"))
    assert accuracy == pytest.approx(accuracy_score(truth, said))
    assert rare == pytest.approx(f1_score(truth, said, average=None)[np.bincount(truth).argmin()])


def test_a_choice_does_not_see_its_fold(kept):
    """A number that helps in one fold alone is taken in the others, and not there."""
    right = [np.asarray(each.labels, dtype=float) for each in kept._truth]
    wrong = [np.roll(each, 1, axis=1) for each in right]

    def make(weight):
        return [right[0] if weight == 1.0 else wrong[0], *wrong[1:]]

    found = kept.chosen(make)
    assert (found[0] == wrong[0]).all()  # the other folds do not tell the weights apart: the first one is taken
    assert kept.quality(found) == 0.0


def test_nothing_differs_from_itself(kept):
    scores = kept.of_baseline("logistic regression")
    assert [str(each) for each in kept.beside(scores, scores)] == ["+0.000 (+0.000 to +0.000)"] * 2


def test_the_mean_of_runs_is_no_ensemble(kept):
    regression = kept.of_baseline("logistic regression")
    runs = kept.of_each_seed("all/lora")
    assert len(runs) == 2
    means = [kept.beside(scores, regression)[0].mean for scores in runs]
    found = kept.mean_beside(runs, regression)[0]
    assert found.mean == pytest.approx(np.mean(means))
    assert found.mean != pytest.approx(kept.beside(kept.of_rows(["all/lora"]), regression)[0].mean, abs=1e-4)
    one = kept.beside(runs[0], regression)[0]
    assert found.low < found.mean < found.high and one.low < one.mean < one.high
