import numpy as np
import pytest
from layerselect.tasks.run.baselines import MajorityBaseline, TextRegression, WordBaseline
from layerselect.tasks.run.word_features import WordFeatures, describe
from sklearn.feature_extraction.text import TfidfVectorizer

from tests.helpers.tiny_intent import LABELS, revisions


def rows_and_targets(**kwargs):
    rows = revisions(**kwargs)
    return rows, np.array([LABELS.index(row["intentions"][0]) for row in rows])


def test_majority_answers_the_most_frequent_class_with_its_share():
    baseline = MajorityBaseline(np.array([1, 1, 0, 1]), 3, multi_label=False)
    scores, predicted = baseline.predict([{}, {}])
    assert predicted.tolist() == [1, 1]
    assert scores.tolist() == [[0.25, 0.75, 0.0]] * 2


def test_majority_of_label_sets():
    targets = np.array([[1, 0], [1, 1], [1, 1]], dtype=np.float32)
    scores, predicted = MajorityBaseline(targets, 2, multi_label=True).predict([{}])
    assert predicted.tolist() == [[1, 1]]
    assert scores[0] == pytest.approx([1.0, 2 / 3])


def test_word_baselines_learns_which_words_go_and_come():
    rows, targets = rows_and_targets()
    baseline = WordBaseline(rows[:36], targets[:36], 3, multi_label=False)
    scores, predicted = baseline.predict(rows[36:])
    assert (predicted == targets[36:]).all()
    assert scores.sum(axis=1) == pytest.approx(np.ones(36))


def test_a_class_the_training_split_lacks_scores_zero():
    rows, targets = rows_and_targets()
    keep = targets != 1
    baseline = WordBaseline([row for row, k in zip(rows, keep, strict=True) if k], targets[keep], 3, multi_label=False)
    scores, predicted = baseline.predict(rows)
    assert (scores[:, 1] == 0).all()
    assert set(predicted.tolist()) == {0, 2}


def test_several_labels():
    rows, targets = rows_and_targets()
    many = np.stack([targets == 0, targets != 2], axis=1).astype(np.float32)
    scores, predicted = WordBaseline(rows, many, 2, multi_label=True).predict(rows)
    assert predicted.tolist() == many.tolist()
    assert scores.shape == (72, 2)


def test_one_class_only_is_predicted_without_a_regression():
    rows, _ = rows_and_targets(documents=1)
    scores, predicted = WordBaseline(rows, np.full(len(rows), 2), 3, multi_label=False).predict(rows[:2])
    assert predicted.tolist() == [2, 2]
    assert scores.tolist() == [[0, 0, 1]] * 2


@pytest.mark.parametrize("told_by", ["letters", "text"])
def test_a_text_regression_reads_letters_and_the_revised_text(told_by):
    """The words that change are new in every row. Their ends, or another word of the text, tell the label."""
    draw = np.random.default_rng(0)
    stems = ["".join(draw.choice(list("bcdfghklmnprstvw"), 6)) for _ in range(120)]
    targets = np.arange(120) % 2
    rows = []
    for stem, target in zip(stems, targets, strict=True):
        end = ("ness", "ment")[target] if told_by == "letters" else "ness"
        place = "home" if told_by == "letters" else ("home", "past")[target]
        rows.append({"before": f"she went {place}", "after": f"she {stem}{end} went {place}"})
    right = {
        kind: (kind(rows[:80], targets[:80], 2, multi_label=False).predict(rows[80:])[1] == targets[80:]).mean()
        for kind in (WordBaseline, TextRegression)
    }
    assert right[TextRegression] > 0.95
    assert right[WordBaseline] < 0.7


def test_terms_are_those_of_scikit_learn():
    rows, _ = rows_and_targets()
    described = describe(rows)
    features = WordFeatures.of(described, terms=True)
    found = features.matrix(described)[:, -len(features.terms["revised_words"].names) :].toarray()
    oracle = TfidfVectorizer(min_df=3, sublinear_tf=True).fit_transform([row["after"] for row in rows]).toarray()
    assert found == pytest.approx(oracle)
    assert features.matrix(described).shape == (len(rows), len(features))
