"""SARI, GLEU and Update-ROUGE against published values, cases by hand, and a second way to compute them."""

import math
import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.metrics import copy_rate, exact_match, gleu, sari, sentence_gleu, update_rouge
from layerselect.metrics.texts import tokenize_13a

SOURCE = "About 95 species are currently accepted ."
REFERENCES = [
    "About 95 species are currently known .",
    "About 95 species are now accepted .",
    "95 species are now accepted .",
]
WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=9).map(" ".join)


# ---------------------------------------------------------------- published values


def test_sari_of_the_example_in_editevals_tests():
    score = sari([SOURCE], ["About 95 you now get in ."], [REFERENCES])
    assert round(score.sari, 3) == 31.35
    # With precision instead of F1 for deletion, its parts are those that the metric card of `evaluate` shows: 8.33,
    # 22.53.
    assert score.add == pytest.approx(8.333333333)
    assert score.keep == pytest.approx(22.527472527)
    assert float(score) == score.sari == pytest.approx((score.add + score.keep + score.delete) / 3)


def test_gleu_of_the_example_in_editevals_tests():
    predictions = ["About 95 species are currently known .", "About 95 you now get in ."]
    assert gleu([SOURCE] * 2, predictions, [REFERENCES] * 2) == pytest.approx(0.168629, abs=1e-6)


# ---------------------------------------------------------------- by hand


def test_sari_by_hand():
    """Source a b, prediction a c, reference a c d. Order 1: added c of c, d: P 1, R 1/2, F 2/3; kept a: 1; deleted b:
    1. Order 2: added "a c" of "a c", "c d": 2/3; nothing kept; "a b" deleted: 1. Orders 3: "a c d" is missed: 0. Order
    4: none.
    """
    score = sari(["a b"], ["a c"], [["a c d"]])
    assert score.add == pytest.approx(100 * (2 / 3 + 2 / 3) / 4)
    assert score.keep == pytest.approx(100 * 1 / 4)
    assert score.delete == pytest.approx(100 * 2 / 4)


def test_gleu_by_hand():
    """All orders of "a b x d e" against reference "a b c d e", source "a b x d e q": unigrams 4 right of 5, and x is
    the source's and not the reference's: 3 of 5; bigrams a b, d e right, b x, x d are the source's: 0, so the corpus
    scores 0.
    """
    assert gleu(["a b x d e q"], ["a b x d e"], [["a b c d e"]]) == 0.0
    # The right change: only the source's own words are missing, every order is right.
    assert gleu(["a b x d e q"], ["a b c d e"], [["a b c d e"]]) == pytest.approx(1.0)
    # One word too few: the brevity penalty, exp(1 - 5/4).
    assert gleu(["z"], ["a b c d"], [["a b c d e"]]) == pytest.approx(math.exp(1 - 5 / 4))


def test_update_rouge_looks_at_new_sentences_only():
    source = "One two. Three four."
    same = update_rouge([source], [source], [[source]])
    assert same == {"rouge1": 1.0, "rouge2": 1.0, "rougeLsum": 1.0}
    nothing_new = update_rouge([source], [source], [["One two. Five six."]])
    assert nothing_new["rouge1"] == 0.0
    # New in both: "Five six." and "Five seven.": one word of two.
    half = update_rouge([source], ["One two. Five seven."], [["One two. Five six."]])
    assert half["rouge1"] == pytest.approx(0.5)
    assert half["rouge2"] == 0.0
    # The plain mean over examples.
    both = update_rouge([source] * 2, [source, "One two. Five seven."], [[source], ["One two. Five six."]])
    assert both["rouge1"] == pytest.approx(0.75)


def test_update_rouge_takes_the_best_reference():
    score = update_rouge(["x."], ["Five six."], [["Seven eight.", "Five six."]])
    assert score["rouge1"] == 1.0


def test_exact_match_and_copies_ignore_white_space_only():
    assert exact_match(["a  b", "A b", "c"], [["a b"], ["a b"], ["d", "c"]]) == pytest.approx(2 / 3)
    assert copy_rate(["a b", "c"], [" a b ", "d"]) == 0.5


# ---------------------------------------------------------------- degenerate input


def test_empty_texts_and_identical_pairs_have_defined_scores():
    nothing = sari(["a b"], [""], [["a b"]])
    assert (nothing.add, nothing.keep, nothing.delete) == (0.0, 0.0, 0.0)
    identical = sari(["a b c d"], ["a b c d"], [["a b c d"]])
    assert (identical.add, identical.keep, identical.delete) == (0.0, 100.0, 0.0)
    assert sari([""], ["a b c d"], [["a b c d"]]).add == 100.0
    assert gleu([""], [""], [[""]]) == 0.0
    assert gleu(["a"], ["a"], [["a"]]) == 0.0  # no 4-gram
    assert 0.0 < sentence_gleu("a", "a", ["a"]) <= 1.0
    assert update_rouge([""], [""], [[""]])["rouge1"] == 1.0
    assert update_rouge([""], [""], [["a."]])["rouge1"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "no predictions"),
        ((["a"], ["b", "c"], [["d"], ["e"]]), "2 predictions and 1 sources"),
        ((["a"], ["b"], [["d"], ["e"]]), "1 predictions and 2 references"),
        ((["a"], ["b"], [[]]), "example 0 has no reference"),
        ((["a"], ["b"], ["d"]), "list of lists"),
    ],
)
@pytest.mark.parametrize("metric", [sari, gleu, update_rouge])
def test_bad_input(metric, arguments, message):
    with pytest.raises(LayerSelectError, match=message):
        metric(*arguments)


# ---------------------------------------------------------------- a second way


def grams(tokens, order):
    return [" ".join(tokens[i : i + order]) for i in range(len(tokens) - order + 1)]


def slow_sari(source, prediction, references):
    """For one text: the definitions, with lists that are searched and crossed out."""
    scores = []
    for order in range(1, 5):
        before = [g for g in grams(source.split(), order) for _ in references]
        after = [g for g in grams(prediction.split(), order) for _ in references]
        wanted = [g for reference in references for g in grams(reference.split(), order)]

        def common(left, right):
            rest, found = list(right), []
            for item in left:
                if item in rest:
                    rest.remove(item)
                    found.append(item)
            return found

        def without(left, right):
            rest, found = list(right), []
            for item in left:
                if item in rest:
                    rest.remove(item)
                else:
                    found.append(item)
            return found

        def f1(right, done, total):
            p, r = (right / done if done else 0), (right / total if total else 0)
            return 2 * p * r / (p + r) if p and r else 0.0

        added, to_add = set(after) - set(before), set(wanted) - set(before)
        kept, to_keep = common(before, after), common(before, wanted)
        gone, to_go = without(before, after), without(before, wanted)
        scores.append(
            [
                f1(len(added & to_add), len(added), len(to_add)),
                f1(len(common(kept, to_keep)), len(kept), len(to_keep)),
                f1(len(common(gone, to_go)), len(gone), len(to_go)),
            ]
        )
    return [100 * sum(column) / 4 for column in zip(*scores, strict=True)]


@settings(max_examples=200, deadline=None)
@given(WORDS, WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_sari_is_the_definition(source, prediction, references):
    score = sari([source], [prediction], [references])
    assert [score.add, score.keep, score.delete] == pytest.approx(slow_sari(source, prediction, references))


@settings(max_examples=100, deadline=None)
@given(WORDS, WORDS, WORDS)
def test_ranges_and_order_of_examples(source, prediction, reference):
    other = ("a b c d e", "a b c d", ["a b d d e"])
    one = sari([source, other[0]], [prediction, other[1]], [[reference], other[2]])
    two = sari([other[0], source], [other[1], prediction], [other[2], [reference]])
    assert one == two
    assert all(0 <= part <= 100.0001 for part in (one.add, one.keep, one.delete))
    assert 0 <= gleu([source], [prediction], [[reference]]) <= 1
    assert 0 < sentence_gleu(source, prediction, [reference]) <= 1 or not (prediction and reference)


def test_equal_references_are_one_for_gleu():
    sources, predictions = ["a b c d e f", "b c d e a"], ["a b c d e g", "b c d e f a"]
    references = ["a b c d e g h", "b c d e f f"]
    one = gleu(sources, predictions, [[r] for r in references])
    assert gleu(sources, predictions, [[r, r, r] for r in references]) == pytest.approx(one)


def test_13a_tokens():
    assert tokenize_13a('He said: "3.5-fold, e.g., isn\'t" &amp; (more).') == [
        "He",
        "said",
        ":",
        '"',
        "3.5",
        "-",
        "fold",
        ",",
        "e",
        ".",
        "g",
        ".",
        ",",
        "isn't",
        '"',
        "&",
        "(",
        "more",
        ")",
        ".",
    ]


def test_13a_tokens_are_sacrebleus():
    tokenizer = pytest.importorskip("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    generator = random.Random(0)
    for _ in range(3000):
        text = "".join(generator.choice(string.printable[:95] + "é—“”\n") for _ in range(generator.randint(0, 25)))
        assert tokenize_13a(text) == tokenizer(text).split()
