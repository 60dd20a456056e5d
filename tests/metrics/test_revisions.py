import builtins
import json
import logging

import pytest
from layerselect import LayerSelectError
from layerselect.metrics import (
    RevisionScores,
    copy_rate,
    exact_match,
    example_scores,
    gleu,
    revision_scores,
    sari,
    sentence_gleu,
    update_rouge,
)
from layerselect.metrics import revisions as module

SOURCES = ["About 95 species are currently accepted .", "One two. Three four.", "It is good ."]
PREDICTIONS = ["About 95 species are now accepted .", "One two. Five seven.", "It is good ."]
REFERENCES = [
    ["About 95 species are currently known .", "About 95 species are now accepted ."],
    ["One two. Five six."],
    ["It is bad ."],
]


@pytest.fixture
def no_rouge(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("rouge_score"):
            raise ModuleNotFoundError("No module named 'rouge_score'", name="rouge_score")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    module._say_what_is_missing.cache_clear()
    yield
    module._say_what_is_missing.cache_clear()


def test_each_score_is_that_of_its_function():
    scores = revision_scores(SOURCES, PREDICTIONS, REFERENCES)
    words = sari(SOURCES, PREDICTIONS, REFERENCES)
    assert (scores.sari, scores.add, scores.keep, scores.delete) == (words.sari, words.add, words.keep, words.delete)
    assert scores.gleu == gleu(SOURCES, PREDICTIONS, REFERENCES)
    assert scores.update_rouge == update_rouge(SOURCES, PREDICTIONS, REFERENCES)["rouge1"]
    assert scores.exact_match == exact_match(PREDICTIONS, REFERENCES) == pytest.approx(1 / 3)
    assert scores.copy_rate == copy_rate(SOURCES, PREDICTIONS) == pytest.approx(1 / 3)
    assert scores.examples == 3


def test_the_scores_survive_json():
    scores = revision_scores(SOURCES, PREDICTIONS, REFERENCES)
    assert RevisionScores.from_dict(json.loads(json.dumps(scores.as_dict()))) == scores


@pytest.mark.parametrize("number", range(3))
def test_one_example_is_a_corpus_of_its_own(number):
    source, prediction, references = SOURCES[number], PREDICTIONS[number], REFERENCES[number]
    scores = example_scores(source, prediction, references)
    corpus = revision_scores([source], [prediction], [references])
    assert scores == {
        "sari": corpus.sari,
        "add": corpus.add,
        "keep": corpus.keep,
        "delete": corpus.delete,
        "sentence_gleu": sentence_gleu(source, prediction, references),
        "update_rouge": corpus.update_rouge,
        "exact_match": [1.0, 0.0, 0.0][number],
        "copy": [0.0, 0.0, 1.0][number],
    }


def test_an_identical_pair_keeps_everything():
    scores = example_scores("One two three four.", "One two three four.", ["One two three four."])
    assert scores == {
        "sari": pytest.approx(100 / 3),
        "add": 0.0,
        "keep": 100.0,
        "delete": 0.0,
        "sentence_gleu": 1.0,
        "update_rouge": 1.0,
        "exact_match": 1.0,
        "copy": 1.0,
    }
    whole = revision_scores(["a b c d"], ["a b c d"], [["a b c d"]])
    assert (whole.gleu, whole.keep) == (1.0, 100.0)
    # Three words have no run of four: the documented ceiling.
    short = revision_scores(["a b c"], ["a b c"], [["a b c"]])
    assert (short.gleu, short.keep) == (0.0, 75.0)


def test_an_empty_prediction_deletes_everything():
    scores = example_scores("One two three four five", "", ["One two three four six"])
    assert (scores["add"], scores["keep"]) == (0.0, 0.0)
    # Order 1: one of five deletions is right; order 2 to 4: one of 4, 3, 2. F1 with a recall of 1.
    assert scores["delete"] == pytest.approx(100 * (2 / 6 + 2 / 5 + 2 / 4 + 2 / 3) / 4)
    assert [scores[name] for name in ("sentence_gleu", "exact_match", "copy")] == [0.0, 0.0, 0.0]
    assert scores["update_rouge"] == 0.0
    assert revision_scores(["a b c d"], [" "], [["a b c d"]]).gleu == 0.0
    # Smoothing alone would call an empty revision of a one-word reference perfect.
    assert sentence_gleu("a", "", ["b"]) == 1.0
    assert example_scores("a", "", ["b"])["sentence_gleu"] == 0.0
    assert example_scores("a", " ", ["b", ""])["sentence_gleu"] == 0.5


def test_of_an_empty_source_everything_is_new():
    scores = example_scores("", "one two three four", ["one two three four"])
    assert (scores["add"], scores["keep"], scores["delete"]) == (100.0, 0.0, 0.0)
    assert (scores["sentence_gleu"], scores["update_rouge"], scores["exact_match"]) == (1.0, 1.0, 1.0)
    assert scores["copy"] == 0.0
    nothing = example_scores("", "", [""])
    assert nothing["sari"] == 0.0
    assert [nothing[k] for k in ("sentence_gleu", "update_rouge", "exact_match", "copy")] == [1.0] * 4


def test_without_rouge_score_the_rest_is_there_and_the_log_says_so_once(no_rouge, caplog):
    with caplog.at_level(logging.WARNING):
        scores = revision_scores(SOURCES, PREDICTIONS, REFERENCES)
        one = example_scores(SOURCES[0], PREDICTIONS[0], REFERENCES[0])
    assert scores.update_rouge is None
    assert one["update_rouge"] is None
    assert scores.sari > 0
    assert [record.message for record in caplog.records] == [
        "Update-ROUGE is left out: rouge_score is missing, pip install 'layerselect[revise]'"
    ]
    assert RevisionScores.from_dict(scores.as_dict()) == scores


def test_bad_input_is_refused():
    with pytest.raises(LayerSelectError, match="no predictions"):
        revision_scores([], [], [])
    with pytest.raises(LayerSelectError, match="example 0 has no reference"):
        example_scores("a", "b", [])
    with pytest.raises(LayerSelectError, match="list of lists"):
        revision_scores(["a"], ["b"], ["c"])
