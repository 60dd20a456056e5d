"""From which probability on each of several labels is answered."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerselect.cli import main
from layerselect.errors import LayerSelectError
from layerselect.tasks.intent import Predictor, run_intent
from layerselect.tasks.intent.blending import MOST_ANSWERED, best_thresholds
from layerselect.tasks.intent.word_scores import WordScores
from layerselect.tasks.run.baselines import WordBaseline
from safetensors.numpy import load_file, save_file
from scipy.special import expit, logit
from sklearn.metrics import f1_score

from tests.helpers.tiny_intent import LABELS, revisions, write_jsonl
from tests.tasks.intent.test_run import lines
from tests.tasks.intent.test_run import settings as run_settings


def expected_f1(probabilities, answered):
    """By its definition as a ratio of expectations."""
    both = probabilities[answered].sum()
    return 2 * both / (answered.sum() + probabilities.sum())


@given(seed=st.integers(0, 999), labels=st.integers(1, 4), shift=st.floats(-6, 3), share=st.floats(0, 0.7))
def test_no_other_threshold_has_a_better_expected_f1(seed, labels, shift, share):
    logits = np.random.default_rng(seed).normal(shift, 2.0, size=(25, labels))
    most = max(MOST_ANSWERED * share * len(logits), share > 0)
    for p, threshold in zip(expit(logits).T, best_thresholds(logits, np.full(labels, share)), strict=True):
        assert 0 < threshold <= 0.5
        allowed = [p >= t for t in [*p, 1.1] if (p >= t).sum() <= most]
        best = max(allowed, key=lambda each: expected_f1(p, each))
        if threshold < 0.5:
            assert 0 < (p >= threshold).sum() <= most
            assert expected_f1(p, p >= threshold) == pytest.approx(expected_f1(p, best))
        else:
            assert p[best].min(initial=1.0) >= 0.5


def test_rare_labels_are_answered_at_lower_probabilities():
    """Of a label that 1 in 20 has, known as well as one that half of the examples have: normal evidence, and what
    Bayes' rule makes of it.
    """
    draw, shares = np.random.default_rng(0), np.array([0.05, 0.5])
    targets = draw.random((40_000, 2)) < shares
    logits = 2 * draw.normal(np.where(targets, 1.0, -1.0), 1.0) + logit(shares)
    thresholds = best_thresholds(logits, shares)
    assert thresholds[0] < thresholds[1] - 0.1
    for theirs, p, threshold in zip(targets.T, expit(logits).T, thresholds, strict=True):
        best = max(f1_score(theirs, p >= t) for t in np.linspace(0.05, 0.9, 86))
        assert best - 0.02 < f1_score(theirs, p >= threshold)
        assert f1_score(theirs, p >= threshold) > f1_score(theirs, p >= 0.5)


@pytest.mark.parametrize("value", [-9.0, -3.0, 0.0])
def test_a_label_that_nothing_tells_apart_is_not_answered_everywhere(value):
    logits = np.full((200, 1), value)
    assert best_thresholds(logits, np.array([0.1])) == 0.5
    nearly = logits - 1e-3 * np.arange(200)[:, None]  # below a half, all but the first of the last
    answered = expit(nearly) >= best_thresholds(nearly, np.array([0.1]))
    assert answered.sum() <= MOST_ANSWERED * 20


def test_a_label_that_does_not_occur_in_training_keeps_a_half():
    logits = np.random.default_rng(0).normal(-5.0, 1.0, size=(200, 2))
    found = best_thresholds(logits, np.array([0.0, 0.05]))
    assert found[0] == 0.5 and found[1] < 0.1


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Every fourth revision has two labels, and a third label is rare."""
    rows = revisions(documents=20)
    for number, row in enumerate(rows):
        if row["intentions"] == ["style"] and number % 4:
            row["intentions"] = ["clarity"]
        if number % 4 == 0:
            row["intentions"] = sorted({*row["intentions"], "fluency"})
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "several.jsonl", rows), rows


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory, bert_folder):
    out = tmp_path_factory.mktemp("runs") / "several"
    return run_intent(replace(run_settings(corpus[0], bert_folder, out, adapter="lora", epochs=2), blend="auto"))


def test_a_run_takes_them_from_its_validation_split(run, corpus):
    thresholds = run.training["thresholds"]
    assert list(thresholds) == LABELS
    words = WordScores.load(run.folder / "adapter", 3, multi_label=True)
    assert words.thresholds == pytest.approx(list(thresholds.values()), abs=5e-5)
    predicted = {row["id"]: row for row in lines(run.folder / "predictions.jsonl")}
    scores = [list(row["scores"].values()) for row in predicted.values() if row["split"] == "validation"]
    blended = logit(np.clip(scores, 1e-6, 1 - 1e-6)) + logit(words.thresholds)  # before they were shifted
    trained = [row["intentions"] for row in corpus[1] if row["id"] not in predicted]
    shares = np.mean([[label in each for label in LABELS] for each in trained], axis=0)
    assert best_thresholds(blended, shares) == pytest.approx(words.thresholds, abs=1e-3)


def test_a_score_of_a_half_is_at_the_threshold(run):
    for row in lines(run.folder / "predictions.jsonl"):
        assert row["predicted"] == [label for label, score in row["scores"].items() if score >= 0.5]


def test_a_saved_predictor_has_them(run, corpus):
    known = {row["id"]: row for row in lines(run.folder / "predictions.jsonl")}
    rows = [row for row in corpus[1] if row["id"] in known]
    for prediction in Predictor.load(run.folder).predict(rows):
        assert list(prediction.scores.values()) == pytest.approx(
            list(known[prediction.id]["scores"].values()), abs=2e-5
        )


def test_it_is_said_in_the_terminal(run, capsys):
    assert main(["inspect", str(run.folder)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    values = run.training["thresholds"].values()
    assert f"each label is answered from a probability of its own on ({min(values):.2f} to {max(values):.2f}," in shown


ROWS = revisions()
SETS = np.array([[label in row["intentions"] for label in LABELS] for row in ROWS], dtype=np.float32)
WORDS = replace(WordScores.of(WordBaseline(ROWS, SETS, 3, multi_label=True), multi_label=True), blend=0.5)


@given(seed=st.integers(0, 99), thresholds=st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3))
@settings(max_examples=30)
def test_joining_moves_the_threshold_to_a_half(seed, thresholds):
    logits, own = np.random.default_rng(seed).normal(size=(2, 20, 3))
    plain = expit(WORDS.joined(logits, own))
    moved = expit(replace(WORDS, thresholds=np.array(thresholds)).joined(logits, own))
    clear = np.abs(plain - thresholds) > 1e-9
    assert ((moved >= 0.5) == (plain >= thresholds))[clear].all()


def test_a_folder_keeps_them_and_old_folders_have_none(tmp_path):
    WORDS.save(tmp_path)
    assert WordScores.load(tmp_path, 3, multi_label=True).thresholds is None
    given = np.array([0.1, 0.2, 0.5])
    replace(WORDS, thresholds=given).save(tmp_path)
    assert WordScores.load(tmp_path, 3, multi_label=True).thresholds.tolist() == given.tolist()


@pytest.mark.parametrize("damaged", [[0.1, 0.2], [0.1, 0.2, 1.0], [0.1, 0.2, np.nan]], ids=["short", "one", "nan"])
def test_damaged_ones_are_one_sentence(tmp_path, damaged):
    WORDS.save(tmp_path)
    path = tmp_path / "word_scores.safetensors"
    save_file({**load_file(path), "thresholds": np.array(damaged)}, path)
    with pytest.raises(LayerSelectError, match=r"word_scores\.safetensors.* is damaged .*threshold.*train again"):
        WordScores.load(tmp_path, 3, multi_label=True)
