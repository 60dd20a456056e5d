from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from layerselect.data.edits import Edit, changed_words, find_edits, split_words

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", ".", "A"]), max_size=14)


def test_punctuation_stands_alone():
    assert split_words("Don't stop, twenty-one!") == ["Don", "'", "t", "stop", ",", "twenty", "-", "one", "!"]


def test_an_added_comma_is_an_added_comma():
    assert changed_words("We came we saw", "We came, we saw") == ([], [","])


def test_case_is_a_difference():
    assert changed_words("the end", "The end") == (["the"], ["The"])


@given(WORDS, WORDS, st.integers(0, 3))
def test_the_edits_turn_one_text_into_the_other(before, after, gap):
    out, position = [], 0
    for edit in find_edits(before, after, gap):
        out += before[position : edit.before_start] + after[edit.after_start : edit.after_end]
        position = edit.before_end
    assert out + before[position:] == after


@given(WORDS, WORDS)
def test_edits_are_apart_and_not_empty(before, after):
    edits = find_edits(before, after, gap=1)
    assert all(e.before_end > e.before_start or e.after_end > e.after_start for e in edits)
    assert all(right.before_start - left.before_end > 1 for left, right in pairwise(edits))


def test_near_edits_are_joined():
    before, after = ["a", "x", "b", "y", "c"], ["a", "X", "b", "Y", "c"]
    assert len(find_edits(before, after)) == 2
    assert find_edits(before, after, gap=1) == [Edit(1, 4, 1, 4)]
