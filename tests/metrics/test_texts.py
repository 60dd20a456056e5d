"""What the generation metrics take, and how they read scripts other than Latin."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.metrics import copy_rate, exact_match, gleu, revision_scores, sari, update_rouge
from layerselect.metrics.texts import WordTokenizer, spaced, tokenize_13a

SOURCES = ["a b c d e", "one two three four"]
PREDICTIONS = ["a b c d f", "one two three five"]
REFERENCES = [["a b c d f"], ["one two three five", "two"]]

HOLDERS = {
    "tuples": lambda values: tuple(values),
    "series": lambda values: pd.Series(list(values), index=range(7, 7 + len(values))),
    "objects": lambda values: np.array([*values, None], dtype=object)[:-1],
    "generators": lambda values: (value for value in values),
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_whatever_holds_the_texts(hold):
    plain = revision_scores(SOURCES, PREDICTIONS, REFERENCES)
    assert revision_scores(hold(SOURCES), hold(PREDICTIONS), hold(REFERENCES)) == plain
    assert sari(hold(SOURCES), hold(PREDICTIONS), hold(REFERENCES)).sari == plain.sari
    assert gleu(hold(SOURCES), hold(PREDICTIONS), hold(REFERENCES)) == plain.gleu
    assert exact_match(hold(PREDICTIONS), hold(REFERENCES)) == plain.exact_match
    assert copy_rate(hold(SOURCES), hold(PREDICTIONS)) == plain.copy_rate


def test_an_array_of_texts():
    texts = np.array(PREDICTIONS)
    assert exact_match(texts, texts[:, None]) == 1.0


@pytest.mark.parametrize("missing", [None, math.nan, 3, pd.NA, b"a", ["a"]], ids=repr)
@pytest.mark.parametrize("place", ["predictions", "sources", "references"])
def test_what_is_no_text_is_named(missing, place):
    given_texts = {
        "sources": list(SOURCES),
        "predictions": list(PREDICTIONS),
        "references": [list(r) for r in REFERENCES],
    }
    if place == "references":
        given_texts["references"][1][1] = missing
    else:
        given_texts[place][1] = missing
    name = r"references\[1\]\[1\]" if place == "references" else rf"{place}\[1\]"
    for score in (revision_scores, sari, gleu, update_rouge):
        with pytest.raises(LayerSelectError, match=f"^{name} is .* must be a text"):
            score(given_texts["sources"], given_texts["predictions"], given_texts["references"])


@pytest.mark.parametrize("wrong", ["a text", None, 3, {"a": 1}, torch.tensor(1.0)], ids=repr)
def test_what_is_no_list_is_named(wrong):
    with pytest.raises(LayerSelectError, match=r"^predictions.* must be a (list|text)"):
        sari(SOURCES, wrong, REFERENCES)


REVISIONS = {
    "Russian": ("Он идёт домой.", "Завтра он идёт домой пешком."),
    "Greek": ("Πάει σπίτι.", "Αύριο θα πάει σπίτι νωρίς."),
    "Hindi": ("यह एक वाक्य है।", "यह एक छोटा वाक्य है।"),
    "Arabic": ("ذهب إلى البيت.", "ذهب الولد إلى البيت أمس."),
    "Hebrew": ("הוא הולך הביתה.", "מחר הוא הולך הביתה ברגל."),
    "Korean": ("그는 집에 갔다.", "어제 그는 걸어서 집에 갔다."),
    "Chinese": ("他们昨天去了学校。", "他们昨天步行去了学校。"),
    "Japanese": ("彼は家に帰った。", "昨日彼は歩いて家に帰った。"),
    "Thai": ("เขากลับบ้าน", "เมื่อวานเขาเดินกลับบ้าน"),
    "French": ("Le café est fermé.", "Le petit café est fermé aujourd'hui."),
}


@pytest.mark.parametrize("source,target", REVISIONS.values(), ids=REVISIONS)
def test_a_perfect_revision_scores_as_in_english(source, target):
    pytest.importorskip("rouge_score")
    perfect = revision_scores([source], [target], [[target]])
    assert perfect.update_rouge == 1.0 and perfect.exact_match == 1.0
    assert perfect.gleu == pytest.approx(1.0)
    assert perfect.sari > 60
    copied = revision_scores([source], [source], [[target]])
    assert copied.update_rouge == 0.0 and copied.sari < perfect.sari


def test_accents_make_other_words():
    pytest.importorskip("rouge_score")
    assert update_rouge(["x."], ["cafe."], [["caf\u00e9."]])["rouge1"] == 0.0


@given(st.text(alphabet=st.characters(min_codepoint=0, max_codepoint=127)))
def test_english_is_read_as_rouge_score_reads_it(text):
    tokenize = pytest.importorskip("rouge_score.tokenize")
    assert WordTokenizer().tokenize(text) == tokenize.tokenize(text, None)
    assert spaced(text) == text


def test_a_character_of_an_unspaced_script_is_a_word():
    assert tokenize_13a("他们去了 3.5 km。") == ["他", "们", "去", "了", "3.5", "km。"]
    assert WordTokenizer().tokenize("他们walk。") == ["他", "们", "walk"]
