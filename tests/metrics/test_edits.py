"""Edits of revisions beside those of references: by hand, and what must hold of any texts."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.metrics import EditCounts, EditReport, RevisionScores, edit_counts, edit_reports, revision_scores
from layerselect.metrics.edits import KINDS, NUMBERS, SAVED, WordEdit, word_edits
from layerselect.metrics.revisions import LATER, SAVED_SCORES
from layerselect.utils.saved_schema import Mismatch, check

SOURCE = "He go home very quickly now ."
#: go -> goes, "very" out, "today" in behind "now".
REFERENCE = "He goes home quickly now today ."

#: Few words, so that many are equal and edits can stand in several places.
WORDS = st.lists(st.sampled_from(["a", "b", "A", ".", "é"]), max_size=7)
TEXTS = WORDS.map(" ".join)


def one(source, prediction, *references):
    return edit_reports([source], [prediction], [list(references)])[0]


def test_by_hand():
    found = one(SOURCE, "He goes home very slowly now today .", REFERENCE)
    # goes and today as asked; quickly -> slowly is nobody's, and so is the word.
    assert found.edits == EditCounts(asked=3, done=2, made=3, right=2)
    assert found.kinds == {
        "insert": EditCounts(1, 1, 1, 1),
        "delete": EditCounts(1, 0, 0, 0),
        "replace": EditCounts(1, 1, 2, 1),
    }
    assert (found.revisions, found.copies, found.invented) == (1, 0, 1)
    assert found.edits.share_done == pytest.approx(2 / 3) and found.edits.share_unasked == pytest.approx(1 / 3)
    assert found.kinds["delete"].share_done == 0.0 and found.kinds["delete"].share_unasked is None


def test_an_edit_is_right_only_at_its_place_and_with_its_words():
    assert one("a b c d", "x b c d", "a b c x").edits == EditCounts(1, 0, 1, 0)
    assert one("a b c d", "a y c d", "a x c d").edits == EditCounts(1, 0, 1, 0)
    assert one("a b c d", "a c d", "a x c d").edits == EditCounts(1, 0, 1, 0)
    assert one("a b", "A b", "a b").edits == EditCounts(0, 0, 1, 0)  # a capital is a change,
    assert one("a b", "A b", "a b").invented == 0  # and no new word


def test_an_edit_that_can_stand_in_several_places_is_one():
    assert word_edits(["is", "very", "very", "big"], ["is", "very", "big"]) == [WordEdit(1, 2, ())]
    assert word_edits(["x", "a", "b"], ["x", "a", "b", "a", "b"]) == [WordEdit(1, 1, ("a", "b"))]
    assert one("it is very very big", "it is very big", "it is very big").edits == EditCounts(1, 1, 1, 1)


def test_of_several_references_the_one_that_agrees_best_is_asked_for():
    references = ("a x c d e", "a b c y e", "a x c y e")
    assert one("a b c d e", "a x c y e", *references).edits == EditCounts(2, 2, 2, 2)
    assert one("a b c d e", "a x c d e", *references).edits == EditCounts(1, 1, 1, 1)
    # Right is what is in any of them.
    assert one("a b c d e", "a x c y e", *references[:2]).edits == EditCounts(1, 1, 2, 2)
    # Of a copy, the one that asks for least.
    assert one("a b c d e", "a b c d e", *references[::-1]).edits == EditCounts(1, 0, 0, 0)
    assert one("a b c", "a b z", "a b x", "a b z").invented == 0


def test_each_intention_has_the_counts_of_its_examples():
    sources, references = ["a b c"] * 3, [["a x c"], ["a c"], ["a b c d"]]
    predictions = ["a x c", "a b c", "w a b c d"]
    whole, named = edit_reports(sources, predictions, references, [["style"], ["clarity"], ["style", "clarity"]])
    assert list(named) == ["clarity", "style"]
    assert whole.edits == EditCounts(3, 2, 3, 2) and (whole.revisions, whole.copies, whole.invented) == (3, 1, 1)
    assert named["style"].edits == EditCounts(2, 2, 3, 2) and named["style"].revisions == 2
    assert named["clarity"].edits == EditCounts(2, 1, 2, 1) and named["clarity"].share_copied == 0.5
    assert named["clarity"].invented_each == 0.5
    assert edit_reports(sources, predictions, references)[1] == {}
    with pytest.raises(LayerSelectError, match="3 sources and 1 lists of intentions"):
        edit_reports(sources, predictions, references, [["style"]])


def test_a_script_without_spaces_has_a_word_for_each_character():
    found = one("我喜欢茶", "我喜欢水", "我喜欢水")
    assert found.edits == EditCounts(1, 1, 1, 1)
    assert one("我喜欢茶", "我爱水", "我喜欢水").invented == 1


@settings(max_examples=150, deadline=None)
@given(WORDS, WORDS)
def test_edits_make_the_other_text_and_keep_apart(before, after):
    edits = word_edits(before, after)
    made, place = [], 0
    for number, edit in enumerate(edits):
        assert edit.start >= place + (number > 0)
        assert edit.kind in KINDS and tuple(before[edit.start : edit.end]) != edit.words
        made += [*before[place : edit.start], *edit.words]
        place = edit.end
    assert made + before[place:] == after


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3), st.integers(0, 2))
def test_a_reference_makes_everything_that_was_asked_for_and_nothing_else(source, references, chosen):
    found = one(source, references[chosen % len(references)], *references)
    assert found.edits.done == found.edits.asked and found.edits.right == found.edits.made
    assert found.edits.share_done in (1.0, None) and found.edits.share_unasked in (0.0, None)
    assert found.invented == 0


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_a_copy_makes_nothing(source, references):
    found = one(source, source, *references)
    assert (found.edits.done, found.edits.made, found.copies, found.invented) == (0, 0, 1, 0)
    assert found.edits.share_done in (0.0, None) and found.edits.share_unasked is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS, st.lists(TEXTS, min_size=1, max_size=2)), min_size=1, max_size=4))
def test_counts_add_up(rows):
    """Kinds to all edits, examples to the corpus; no reference adds what is not wanted."""
    texts = [list(column) for column in zip(*rows, strict=True)]
    whole, _ = edit_reports(*texts)
    single = [one(source, text, *references) for source, text, references in rows]
    for name in ("asked", "done", "made", "right"):
        total = getattr(whole.edits, name)
        assert total == sum(getattr(counts, name) for counts in whole.kinds.values())
        assert total == sum(getattr(each.edits, name) for each in single)
    assert whole.edits.done <= min(whole.edits.asked, whole.edits.right) and whole.edits.right <= whole.edits.made
    assert whole.copies <= whole.revisions == len(rows)


@given(st.lists(st.tuples(TEXTS, TEXTS, st.lists(TEXTS, min_size=1, max_size=2)), min_size=1, max_size=4))
def test_numbers_of_each_revision_make_the_same_report(rows):
    counts = edit_counts(*zip(*rows, strict=True))
    assert counts.shape == (len(rows), NUMBERS) and counts.dtype.name == "int64"
    assert EditReport.of_counts(counts) == edit_reports(*zip(*rows, strict=True))[0]
    assert EditReport.of_counts(counts[:0]).edits == EditCounts(0, 0, 0, 0)


def test_scores_hold_the_shares_and_survive_json():
    texts = [SOURCE], ["He goes home very slowly now today ."], [[REFERENCE]]
    scores = revision_scores(*texts, [["fluency"]])
    assert (scores.edits_made, scores.edits_unasked, scores.invented) == pytest.approx((2 / 3, 1 / 3, 1.0))
    assert scores.by_intention == {"fluency": scores.edits}
    values = json.loads(json.dumps(scores.as_dict()))
    check(SAVED_SCORES, values)
    assert RevisionScores.from_dict(values) == scores
    assert EditReport.from_dict(values["edits"]) == scores.edits
    with pytest.raises(Mismatch, match=r"edits\.asked"):
        check(SAVED, {**values["edits"], "edits": {**values["edits"]["edits"], "asked": -1}})


def test_what_earlier_releases_wrote_is_read():
    scores = revision_scores(["a b"], ["a c"], [["a d"]])
    old = {name: value for name, value in scores.as_dict().items() if name not in LATER}
    check(SAVED_SCORES, old)
    read = RevisionScores.from_dict(old)
    assert read.sari == scores.sari and read.edits is None and read.edits_made is None and read.by_intention == {}
