"""What the changed words add to a predictor: whose scores they are, that a file keeps them, that a run learns on top of
them or blends them into its answers.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.cli import main
from layerselect.models.load import load_classifier
from layerselect.report import write_intent_report
from layerselect.tasks.intent import IntentConfig, Predictor, run_intent
from layerselect.tasks.intent.dataset import Collator, EncodedSplit, Splits
from layerselect.tasks.intent.heads import ClassifierHead
from layerselect.tasks.intent.word_scores import WordScores, with_offset
from layerselect.tasks.merge import merge_adapter
from layerselect.tasks.run.baselines import TextRegression, WordBaseline
from safetensors.numpy import load_file, save_file
from scipy.special import expit, softmax

from tests.helpers.tiny_intent import LABELS, corpus_file, revisions
from tests.tasks.intent.test_run import lines
from tests.tasks.intent.test_run import settings as run_settings

ROWS = revisions(documents=10)
TARGETS = np.array([LABELS.index(row["intentions"][0]) for row in ROWS])
SETS = np.stack([TARGETS == 0, TARGETS != 2, TARGETS >= 0], axis=1).astype(np.float32)


def offset_of(rows, targets, labels=3, *, multi_label=False, kind=WordBaseline):
    baseline = kind(rows, targets, labels, multi_label=multi_label)
    return WordScores.of(baseline, multi_label=multi_label), baseline


#: Where it does not matter whose.
ANY, _ = offset_of(ROWS, TARGETS)


def split(rows, targets, name="train"):
    return EncodedSplit(name, list(rows), [{"input_ids": [1], "attention_mask": [1]}] * len(rows), targets)


@given(lacking=st.sets(st.integers(0, 2), max_size=2), kind=st.sampled_from([WordBaseline, TextRegression]))
def test_they_are_the_regression_s_log_probabilities(lacking, kind):
    keep = [place for place, target in enumerate(TARGETS) if target not in lacking]
    offset, baseline = offset_of([ROWS[i] for i in keep], TARGETS[keep], kind=kind)
    scores, _ = baseline.predict(ROWS)
    assert softmax(offset(ROWS).astype(np.float64), axis=1) == pytest.approx(scores, abs=2e-4)
    assert np.isfinite(offset(ROWS)).all()


def test_with_several_labels_they_are_logits():
    """The third label is there in every row, and a fourth in none."""
    targets = np.concatenate([SETS, np.zeros((len(ROWS), 1), np.float32)], axis=1)
    offset, baseline = offset_of(ROWS, targets, 4, multi_label=True)
    scores, _ = baseline.predict(ROWS)
    assert expit(offset(ROWS)) == pytest.approx(scores, abs=2e-4)


@pytest.mark.parametrize("kind", [WordBaseline, TextRegression])
@pytest.mark.parametrize("multi_label", [False, True])
def test_a_folder_keeps_them(tmp_path, multi_label, kind):
    offset, _ = offset_of(ROWS, SETS if multi_label else TARGETS, multi_label=multi_label, kind=kind)
    offset.save(tmp_path)
    loaded = WordScores.load(tmp_path, 3, multi_label=multi_label)
    assert (loaded(ROWS) == offset(ROWS)).all()
    with pytest.raises(LayerSelectError, match=r"no finite float64 'weights' of shape \(4,"):
        WordScores.load(tmp_path, 4, multi_label=multi_label)


def _lost_word(folder):
    words = json.loads((folder / "word_scores.json").read_text())
    (folder / "word_scores.json").write_text(json.dumps({**words, "added": words["added"][1:]}))


def _lost_letters(folder):
    words = json.loads((folder / "word_scores.json").read_text())
    (folder / "word_scores.json").write_text(json.dumps({**words, "added_letters": []}))


def _changed(name, value):
    def change(folder):
        numbers = load_file(folder / "word_scores.safetensors")
        save_file({**numbers, name: np.full_like(numbers[name], value)}, folder / "word_scores.safetensors")

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_lost_word, "no finite float64 'weights'"),
        (_lost_letters, "no finite float64 'weights'"),
        (_changed("revised_words", np.inf), "no finite float64 'revised_words'"),
        (_changed("biases", np.nan), "no finite float64 'biases'"),
        (_changed("scale", 0.0), "a 'scale' is not above 0"),
        (lambda folder: (folder / "word_scores.json").unlink(), "word_scores.json' cannot be read"),
        (lambda folder: (folder / "word_scores.json").write_text('{"removed": ["a", "a"], "added": []}'), "is damaged"),
        (lambda folder: (folder / "word_scores.safetensors").write_bytes(b"no"), "is damaged"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, damage, words):
    offset_of(ROWS, TARGETS, kind=TextRegression)[0].save(tmp_path)
    damage(tmp_path)
    with pytest.raises(LayerSelectError, match=words) as caught:
        WordScores.load(tmp_path, 3, multi_label=False)
    assert "train again" in str(caught.value)


@pytest.mark.parametrize("documents", [10, 3, 1])
def test_what_trains_is_scored_by_regressions_that_have_not_seen_it(documents):
    """Each row has a word of its own and a label by chance: who has seen a row knows its label, who has not cannot."""
    rows = [
        {**row, "after": f"{row['after']} w{number}", "doc_id": f"d{number % documents}"}
        for number, row in enumerate(ROWS * 3)
    ]
    targets = np.random.default_rng(0).integers(0, 3, len(rows))
    rows = [{**row, "before": row["after"].rpartition(" ")[0]} for row in rows]  # the words before say nothing
    rows = [{**row, "intentions": [LABELS[target]]} for row, target in zip(rows, targets, strict=True)]
    train, test = split(rows[:120], targets[:120]), split(rows[120:], targets[120:], "test")
    given_, fitted = with_offset(Splits(train, None, [test]), 3, multi_label=False, seed=0)
    whole = WordScores.of(fitted, multi_label=False)
    right = [np.mean(each.offsets.argmax(axis=1) == each.targets) for each in (given_.train, given_.report[0])]
    assert np.mean(whole(train.rows).argmax(axis=1) == train.targets) > 0.8
    assert max(right) < 0.5
    assert (given_.report[0].offsets == whole(test.rows)).all()
    assert given_.train.offsets.dtype == np.float32
    part = given_.train.subset([5, 2])
    assert (part.offsets == given_.train.offsets[[5, 2]]).all()


def test_one_example_alone_is_given_scores():
    given_, _ = with_offset(Splits(split(ROWS[:1], TARGETS[:1]), None, []), 3, multi_label=False, seed=0)
    assert given_.train.offsets.shape == (1, 3)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_head_adds_them(bert_folder, multi_label):
    loaded = load_classifier(bert_folder, LABELS, multi_label=multi_label)
    targets = SETS[:4] if multi_label else TARGETS[:4]
    rows = split(ROWS[:4], targets)
    rows.features = [dict(loaded.tokenizer(row["after"])) for row in ROWS[:4]]
    scores = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    plain, moved = (
        Collator(loaded.tokenizer)([each[i] for i in range(4)]) for each in (rows, replace(rows, offsets=scores))
    )
    wanted, head = plain.pop("labels"), ClassifierHead(multi_label=multi_label)
    assert moved.pop("labels").equal(wanted)
    with torch.no_grad():
        logits = head.logits(loaded.model, plain) + torch.from_numpy(scores)
        losses, found = head.evaluate(loaded.model, moved, wanted)
        loss = head.loss(loaded.model, moved, wanted)
    torch.testing.assert_close(found, logits)
    if multi_label:
        oracle = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
    else:
        oracle = torch.nn.functional.cross_entropy(logits, wanted)
    torch.testing.assert_close(loss, oracle)
    torch.testing.assert_close(losses.mean(), oracle)


@pytest.fixture(scope="module")
def done(tmp_path_factory, bert_folder):
    """A run that trains next to nothing, so that what it knows is what it began with: (config, result)."""
    folder = tmp_path_factory.mktemp("runs")
    corpus = corpus_file(tmp_path_factory.mktemp("corpus"), documents=20)
    config = run_settings(
        corpus, bert_folder, folder / "run", adapter="lora", rule="none", lr=1e-4, epochs=1, offset="words"
    )
    return config, run_intent(config)


def test_a_run_begins_with_them(done):
    _, result = done
    for each in result.splits:
        assert each.model.macro_f1 == each.reports["logistic regression"].macro_f1 == 1.0
    plain = run_intent(replace(done[0], out=f"{done[0].out}-plain", offset="none"))
    assert all(each.model.macro_f1 < 0.7 for each in plain.splits)


def test_a_saved_predictor_adds_them(done, tmp_path):
    _, result = done
    records = {row["id"]: row for row in lines(result.folder / "predictions.jsonl")}
    rows = [row for row in revisions(documents=20) if row["id"] in records]
    merged = merge_adapter(result.folder, tmp_path / "merged").folder
    for place in (result.folder, merged):
        broken = {"id": "broken", "before": None, "after": "x"}
        found = {each.id: each for each in Predictor.load(place).predict([*rows, broken], batch_size=7)}
        assert "has no text" in found.pop("broken").error
        assert found.keys() == records.keys()
        for name, prediction in found.items():
            expected = list(records[name]["scores"].values())
            assert list(prediction.scores.values()) == pytest.approx(expected, abs=2e-5)


@pytest.fixture(scope="module")
def blended(done):
    """The same run without an offset, whose answers are blends: (without, with)."""
    options = {"offset": "none", "lr": 3e-3, "rule": "all", "epochs": 2}
    return tuple(
        run_intent(replace(done[0], out=f"{done[0].out}-{blend}", blend=blend, **options)) for blend in ("none", 0.3)
    )


def test_a_blend_is_the_weighted_mean_of_log_probabilities(blended):
    """Of the model that was trained without it, and of the regression on its training split."""
    alone, with_it = ({row["id"]: row for row in lines(each.folder / "predictions.jsonl")} for each in blended)
    corpus = {row["id"]: row for row in revisions(documents=20)}
    regression = WordScores.load(blended[1].folder / "adapter", 3, multi_label=False)
    assert alone.keys() == with_it.keys()
    for name, record in with_it.items():
        own = regression([corpus[name]])[0].astype(np.float64)
        mean = 0.3 * np.log(list(alone[name]["scores"].values())) + 0.7 * own
        assert list(record["scores"].values()) == pytest.approx(softmax(mean).tolist(), abs=1e-4)


def test_the_metrics_of_a_blend_are_those_of_its_answers(blended):
    _, result = blended
    finals = {row["split"]: row for row in lines(result.folder / "metrics.jsonl") if row.get("final")}
    records = lines(result.folder / "predictions.jsonl")
    for each in result.splits:
        own = [row for row in records if row["split"] == each.split]
        right = np.mean([row["labels"] == row["predicted"] for row in own])
        assert finals[each.split]["accuracy"] == pytest.approx(right)
        assert finals[each.split]["macro_f1"] == each.model.macro_f1
        scores = np.array([list(row["scores"].values()) for row in own])
        targets = [LABELS.index(row["labels"][0]) for row in own]
        shares = np.bincount([LABELS.index(row["intentions"][0]) for row in revisions(documents=20)])
        assert (shares == shares[0]).all()  # no class weighs more in the loss
        loss = -np.log(scores[range(len(own)), targets]).mean()
        assert finals[each.split]["loss"] == pytest.approx(loss, rel=0.02)


def test_a_saved_predictor_blends(blended, tmp_path):
    _, result = blended
    records = {row["id"]: row for row in lines(result.folder / "predictions.jsonl")}
    rows = [row for row in revisions(documents=20) if row["id"] in records]
    for place in (result.folder, merge_adapter(result.folder, tmp_path / "merged").folder):
        for prediction in Predictor.load(place).predict(rows, batch_size=7):
            expected = list(records[prediction.id]["scores"].values())
            assert list(prediction.scores.values()) == pytest.approx(expected, abs=2e-5)


def test_what_shows_a_run_says_so(done, blended, capsys, monkeypatch):
    monkeypatch.setattr("layerselect.tasks.intent.task.write_intent_report", write_intent_report)
    for config, sentence in (
        ({"blend": 0.3, "offset": "none"}, "regression on the text. The checkpoint of step"),
        ({}, "began with the scores of this regression"),
    ):
        out = f"{done[0].out}-page{len(config)}"
        assert sentence in (run_intent(replace(done[0], out=out, **config)).folder / "report.html").read_text()
    for result, words in ((done[1], "offset words"), (blended[1], "blend 0.3")):
        assert main(["inspect", str(result.folder)]) == 0
        assert words in capsys.readouterr().out.partition("\n")[0]


@given(weight=st.floats(0.01, 1.0), multi_label=st.booleans(), seed=st.integers(0, 99))
def test_a_blend_lies_between_its_parts(weight, multi_label, seed):
    logits, own = np.random.default_rng(seed).normal(size=(2, 5, 3))
    own = own if multi_label else np.log(softmax(own, axis=1))
    found = replace(ANY, multi_label=multi_label, blend=weight).joined(logits, own)
    theirs = logits if multi_label else np.log(softmax(logits, axis=1))
    assert (found >= np.minimum(theirs, own) - 1e-9).all()
    assert (found <= np.maximum(theirs, own) + 1e-9).all()


@pytest.mark.parametrize("name", ["done", "blended"])
def test_the_card_of_the_adapter_says_how_to_bring_them_in(name, request, monkeypatch):
    result = request.getfixturevalue(name)[1]
    folder = result.folder / "adapter"
    card = (folder / "README.md").read_text()
    assert "has a part in that" in card
    programs = [block.removeprefix("python\n") for block in card.split("```")[1::2] if block.startswith("python")]
    values: dict = {}
    monkeypatch.chdir(folder)
    for program in programs[:2]:
        exec(program, values)
    predicted = next(Predictor.load(folder).predict([{"id": 1, **values["row"]}])).scores
    assert values["found"] == pytest.approx(predicted, abs=1.5e-3)


def test_cached_hidden_states_change_nothing(done, tmp_path):
    config, _ = done
    changes = {"rule": "fixed:layers=[2]", "adapter": "lora", "lr": 3e-3}
    one = run_intent(replace(config, out=str(tmp_path / "plain"), **changes))
    two = run_intent(replace(config, out=str(tmp_path / "cached"), state_cache="cached", cut="2", **changes))
    for left, right in zip(*(lines(each.folder / "predictions.jsonl") for each in (one, two)), strict=True):
        assert list(left["scores"].values()) == pytest.approx(list(right["scores"].values()), abs=2e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": "generate", "offset": "words"}, "--offset words needs the logits of a classification head"),
        ({"head": "generate", "blend": 0.3}, "--blend 0.3 needs the logits of a classification head"),
        ({"offset": "words", "blend": 0.3}, "--offset words and --blend 0.3 both bring in a regression"),
        ({"blend": 0.0}, "--blend 0.0 must be above 0"),
        ({"blend": 1.5}, "--blend 1.5"),
        ({"blend": "half"}, "--blend half is neither auto nor none nor a number"),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    with pytest.raises(LayerSelectError, match=words):
        IntentConfig(data="x", model="y", out="z", **options)
