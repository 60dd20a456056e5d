"""The weight of the model in the answers of a run: which one is best, and that a run chooses it by its validation
split.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerselect.cli import main
from layerselect.tasks.intent import IntentConfig, Predictor, run_intent
from layerselect.tasks.intent.blending import WEIGHTS, best_weight, log_losses
from layerselect.tasks.intent.word_scores import WordScores
from layerselect.tasks.run.baselines import WordBaseline
from scipy.special import expit, log_softmax, softmax
from scipy.stats import sem
from sklearn.metrics import log_loss

from tests.helpers.tiny_intent import LABELS, corpus_file, revisions, write_jsonl
from tests.tasks.intent.test_run import lines
from tests.tasks.intent.test_run import settings as run_settings

ROWS = revisions(documents=10)
TARGETS = np.array([LABELS.index(row["intentions"][0]) for row in ROWS])
WORDS = WordScores.of(WordBaseline(ROWS, TARGETS, 3, multi_label=False), multi_label=False)
SEVERAL = replace(WORDS, multi_label=True)


@given(seed=st.integers(0, 999), labels=st.integers(2, 5))
def test_the_losses_are_those_of_scikit_learn(seed, labels):
    draw = np.random.default_rng(seed)
    targets, logits = draw.integers(0, labels, 20), draw.normal(size=(20, labels))
    expected = log_loss(targets, softmax(logits, axis=1), labels=range(labels))
    assert log_losses(logits, targets, multi_label=False).mean() == pytest.approx(expected)


@given(seed=st.integers(0, 999))
def test_with_several_labels_each_is_a_question_of_its_own(seed):
    draw = np.random.default_rng(seed)
    targets = (draw.random((20, 3)) < (0.1, 0.5, 0.0)).astype(np.float32)
    logits = draw.normal(size=(20, 3))
    expected = np.mean([log_loss(targets[:, i], expit(logits[:, i]), labels=[0, 1]) for i in range(3)])
    assert log_losses(logits, targets, multi_label=True).mean() == pytest.approx(expected)


@given(seed=st.integers(0, 999), multi_label=st.booleans())
@settings(max_examples=40)
def test_no_smaller_weight_is_within_one_standard_error(seed, multi_label):
    draw = np.random.default_rng(seed)
    logits, own = draw.normal(size=(2, 30, 3))
    words, targets = WORDS, draw.integers(0, 3, 30)
    if multi_label:
        words, targets = SEVERAL, (draw.random((30, 3)) < 0.4).astype(np.float32)
    else:
        own = log_softmax(own, axis=1)
    found = best_weight(words, logits, own, targets)

    def losses(weight):
        joined = replace(words, blend=weight).joined(logits, own)
        return log_losses(joined, targets, multi_label=multi_label)

    best = min(map(losses, WEIGHTS), key=np.mean)
    within = [np.mean(losses(each) - best) <= sem(losses(each) - best, ddof=0) for each in WEIGHTS]
    assert found == WEIGHTS[within.index(True)]


def test_who_knows_everything_weighs_most():
    """Of a model that knows the labels as much is taken as can be told, and of one that knows nothing as little as can
    be.
    """
    known, unknown = 9.0 * np.eye(3)[TARGETS], 9.0 * np.eye(3)[(TARGETS + 1) % 3]
    noise = np.random.default_rng(0).normal(size=known.shape)
    assert best_weight(WORDS, known + noise, log_softmax(unknown, axis=1), TARGETS) > 0.9
    assert best_weight(WORDS, unknown, log_softmax(known + noise, axis=1), TARGETS) == WEIGHTS[0]
    assert best_weight(WORDS, known, log_softmax(known, axis=1), TARGETS) == WEIGHTS[0]  # of equal ones the smallest


@pytest.fixture(scope="module")
def runs(tmp_path_factory, bert_folder):
    """Two runs that learn a little, with the default and with the model alone: (config, blended, alone)."""
    folder = tmp_path_factory.mktemp("runs")
    corpus = corpus_file(tmp_path_factory.mktemp("corpus"), documents=20)
    config = replace(run_settings(corpus, bert_folder, folder / "auto", adapter="lora", epochs=2), blend="auto")
    return config, run_intent(config), run_intent(replace(config, out=str(folder / "alone"), blend="none"))


def test_the_answers_are_blends_by_default():
    assert IntentConfig(data="x", model="y", out="z").blend == "auto"


def test_a_run_chooses_the_weight_on_its_validation_split(runs):
    _, blended, alone = runs
    weight = blended.training["blend"]
    assert weight < 1
    assert blended.training["blend_chosen"]
    assert "blend" not in alone.training
    corpus = {row["id"]: row for row in revisions(documents=20)}
    records = [row for row in lines(alone.folder / "predictions.jsonl") if row["split"] == "validation"]
    words = WordScores.load(blended.folder / "adapter", 3, multi_label=False)
    logits = np.log(np.maximum([list(row["scores"].values()) for row in records], 1e-9))
    targets = np.array([LABELS.index(row["labels"][0]) for row in records])
    assert best_weight(words, logits, words([corpus[row["id"]] for row in records]), targets) == weight == words.blend


def test_the_model_by_itself_stands_beside_its_answers(runs):
    _, blended, alone = runs
    for ours, theirs in zip(blended.splits, alone.splits, strict=True):
        assert list(ours.reports) == [
            "majority class",
            "logistic regression",
            "text regression",
            "model alone",
            "trained model",
        ]
        assert list(theirs.reports) == ["majority class", "logistic regression", "trained model"]
        assert ours.reports["model alone"] == theirs.model
        assert ours.model.macro_f1 >= theirs.model.macro_f1


def test_what_is_saved_answers_so(runs):
    _, blended, _ = runs
    records = {row["id"]: row for row in lines(blended.folder / "predictions.jsonl")}
    rows = [row for row in revisions(documents=20) if row["id"] in records]
    for prediction in Predictor.load(blended.folder).predict(rows):
        expected = list(records[prediction.id]["scores"].values())
        assert list(prediction.scores.values()) == pytest.approx(expected, abs=2e-5)


def test_it_is_said_in_the_terminal(runs, capsys):
    _, blended, alone = runs
    shown = []
    for each in (blended, alone):
        assert main(["inspect", str(each.folder)]) == 0
        shown.append(" ".join(capsys.readouterr().out.split()))
    weight = blended.training["blend"]
    assert (
        f"answers of the trained model: {weight:g} of the log-probabilities of the model alone and {1 - weight:g} "
        in shown[0]
    )
    assert "a weight chosen on the validation split" in shown[0]
    assert "answers of the trained model" not in shown[1]


@pytest.mark.parametrize("changes", [{"head": "generate"}, {"offset": "words"}, {}], ids=["writes", "offset", "train"])
def test_the_default_blends_only_what_can_be_blended(runs, changes, tmp_path, llama_folder):
    """A head that writes, a model on top of the words, and a corpus that has nothing to choose a weight by."""
    config = replace(runs[0], out=str(tmp_path / "run"), max_steps=2, epochs=1.0, **changes)
    if "head" in changes:
        config = replace(config, model=str(llama_folder), format="plain", max_length=96)
    if not changes:
        rows = [{**row, "split": "test" if number < 30 else "train"} for number, row in enumerate(revisions())]
        config = replace(config, data=str(write_jsonl(tmp_path / "corpus.jsonl", rows)), splits="official", keep="last")
    result = run_intent(config)
    assert "blend" not in result.training
    assert list(result.splits[-1].reports)[-2:] == ["logistic regression", "trained model"]
