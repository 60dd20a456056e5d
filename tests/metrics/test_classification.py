import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.metrics import classification_report
from sklearn.metrics import accuracy_score, average_precision_score, f1_score


def test_numbers_worked_out_by_hand():
    targets = np.array([0, 0, 1, 1])
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    report = classification_report(targets, scores, ["a", "b"], multi_label=False)
    # predicted a b b b: a has precision 1 and recall 1/2, b has 2/3 and 1
    assert report.rows[0].f1 == pytest.approx(2 / 3)
    assert report.rows[1].f1 == pytest.approx(4 / 5)
    assert report.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert report.accuracy == 0.75
    assert report.confusion == [[1, 1], [0, 2]]
    # by falling score for b the truths are b b a a, for a they are a a b b
    assert report.macro_auprc == pytest.approx(1.0)


def test_a_label_the_split_lacks_is_left_out_of_the_means_but_stands_in_the_table():
    report = classification_report(np.array([0, 1]), np.eye(3)[[0, 1]], ["a", "b", "c"], multi_label=False)
    assert report.macro_f1 == 1.0
    assert report.macro_auprc == 1.0
    assert [row.support for row in report.rows] == [1, 1, 0]
    assert report.rows[2].auprc is None


def test_several_labels_at_once():
    targets = np.array([[1, 0], [1, 1], [0, 0]])
    scores = np.array([[0.9, 0.2], [0.8, 0.4], [0.6, 0.1]])
    report = classification_report(targets, scores, ["a", "b"], multi_label=True)
    # a is predicted for all three, b for none
    assert report.confusion == [[0, 1, 0, 2], [2, 0, 1, 0]]
    assert report.accuracy == pytest.approx(1 / 3)
    assert [row.f1 for row in report.rows] == [pytest.approx(0.8), 0.0]
    assert report.macro_auprc == pytest.approx(1.0)


def test_given_predictions_win_over_the_scores():
    report = classification_report(
        np.array([0, 1]), np.full((2, 2), 0.5), ["a", "b"], multi_label=False, predicted=np.array([1, 1])
    )
    assert report.confusion == [[0, 1], [0, 1]]


@given(st.integers(0, 1_000_000), st.integers(4, 40))
def test_agrees_with_scikit_learn_where_every_label_occurs(seed, count):
    random = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(4), random.integers(0, 4, count)])
    scores = random.dirichlet(np.ones(4), len(targets))
    report = classification_report(targets, scores, list("abcd"), multi_label=False)
    guess = scores.argmax(axis=1)
    assert report.macro_f1 == pytest.approx(f1_score(targets, guess, average="macro", zero_division=0))
    assert report.macro_auprc == pytest.approx(
        average_precision_score(np.eye(4)[targets], scores, average="macro"), abs=1e-12
    )
    assert report.accuracy == pytest.approx(accuracy_score(targets, guess))


@pytest.mark.parametrize(
    ("targets", "scores", "words"),
    [
        (np.zeros(0, dtype=int), np.zeros((0, 2)), "empty"),
        (np.array([0]), np.array([[np.nan, 0.1]]), "example 0 is not a finite number"),
        (np.array([0, 1]), np.zeros((1, 2)), "do not fit 2 examples and 2 labels"),
        (np.array([0]), np.zeros((1, 3)), "do not fit 1 examples and 2 labels"),
    ],
)
def test_what_cannot_be_evaluated_is_said(targets, scores, words):
    with pytest.raises(LayerSelectError, match=words):
        classification_report(targets, scores, ["a", "b"], multi_label=False)
