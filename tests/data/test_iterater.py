"""IteraTeR, sentences and documents, from files of the original format."""

from __future__ import annotations

import pytest
from layerselect.data import CorpusError, load_corpus

from tests.data.conftest import document, edit, sentence, write_lines


def rows_of(corpus):
    return [row for split in corpus.splits.values() for row in split]


def test_a_folder_is_read_as_sentences_with_the_five_intentions(iterater):
    corpus = load_corpus(iterater, splits="official")
    assert corpus.name == "iterater-sent"
    assert corpus.labels == ["clarity", "coherence", "fluency", "meaning-changed", "style"]
    assert not corpus.multi_label
    assert {name: len(split) for name, split in corpus.splits.items()} == {"train": 4, "validation": 2}
    first, second = corpus.splits["train"][0], corpus.splits["train"][1]
    assert first["id"] == "train-1"
    assert first["doc_id"] == "d1"
    assert first["intentions"] == ["fluency"]
    assert second["before"] == " Dogs bark due to the fact that they can."  # the leading space stays
    assert corpus.defects == []


@pytest.mark.parametrize("place", ["human_sent_level", "human_sent_level/train.json"])
def test_the_sentence_folder_and_a_single_file_are_recognised(iterater, place):
    corpus = load_corpus(iterater / place, splits="official")
    assert corpus.name == "iterater-sent"
    assert len(corpus.splits["train"]) == 4


def test_sentences_around_come_from_the_documents_beside(iterater):
    train = load_corpus(iterater, splits="official").splits["train"]
    assert train[0]["before_context"] == ""
    assert train[0]["after_context"] == " Dogs bark due to the fact that they can."
    assert train[1]["before_context"] == "Cats sleeps."
    assert train[1]["after_context"] == " Birds sing."
    assert train[3]["before_context"] == train[3]["after_context"] == ""  # not in the document


def test_a_sentence_that_stands_twice_in_its_document_gets_no_context(iterater):
    row = document("d9", "Yes. No. Yes.", "Yes. No. Yeah.", [edit(9, 12, "Yes", "Yeah", "style")])
    write_lines(iterater / "human_doc_level" / "train.json", [row | {"sents_char_pos": [0, 5, 9]}])
    rows = [sentence("d9", "Yes.", "Yeah.", "style"), sentence("d9", "No.", "Nope.", "style")]
    write_lines(iterater / "human_sent_level" / "train.json", rows)
    train = load_corpus(iterater, splits="official").splits["train"]
    assert (train[0]["before_context"], train[0]["after_context"]) == ("", "")
    assert (train[1]["before_context"], train[1]["after_context"]) == ("Yes. ", " ")


def test_others_is_dropped_by_default_and_kept_on_request(iterater):
    default = load_corpus(iterater, splits="official")
    assert "others" not in default.labels
    assert any("'others' (1 rows)" in note for note in default.notes)
    everything = load_corpus(iterater, splits="official", labels="all")
    assert "others" in everything.labels
    assert len(everything) == len(default) + 1


def test_official_splits_say_which_documents_leak(iterater, caplog):
    corpus = load_corpus(iterater, splits="official")
    assert "1 document stands in train and validation" in corpus.notes
    assert "1 document stands in train and validation" in caplog.text


def test_document_splits_keep_a_leaking_document_together(iterater):
    corpus = load_corpus(iterater)
    places = {row["split"] for row in rows_of(corpus) if row["doc_id"] == "d1"}
    assert len(places) == 1
    assert any("not used; 1 document stands in train and validation" in note for note in corpus.notes)


def test_documents_have_the_intentions_of_their_edits(iterater):
    corpus = load_corpus(f"iterater-doc:{iterater}", splits="official")
    assert corpus.name == "iterater-doc"
    assert corpus.multi_label
    assert corpus.splits["train"]["intentions"] == [["clarity", "fluency"], ["meaning-changed"], ["clarity"]]
    assert corpus.splits["validation"]["intentions"] == [["fluency"]]
    # d3 had "others" only; d5 keeps its other label.
    assert any("'others' (2 rows); 1 rows had no other label" in note for note in corpus.notes)


def test_edits_that_do_not_give_the_second_text_are_a_defect_and_the_row_is_kept(iterater):
    corpus = load_corpus(f"iterater-doc:{iterater}", splits="official")
    (defect,) = corpus.defects  # d1 has a doubled space, which counts as equal; d4 says four for three
    assert (defect.file, defect.row, defect.kept) == ("train.json", 4, True)
    assert "do not give after_revision" in defect.reason
    assert "d4" in corpus.splits["train"]["doc_id"]
    with pytest.raises(CorpusError, match=r"1 defective row\(s\), the first is train.json:4"):
        load_corpus(f"iterater-doc:{iterater}", strict=True)


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ([edit(0, 3, "One", "Two", "style"), edit(2, 4, "e ", "", "style")], "overlap at character 2"),
        ([edit(0, 99, "One", "Two", "style")], "offsets outside the text"),
        ([edit(3, 1, "One", "Two", "style")], "offsets outside the text"),
    ],
)
def test_impossible_offsets_are_named(tmp_path, edits, reason):
    path = write_lines(tmp_path / "train.json", [document("d", "One two.", "Two two.", edits)])
    corpus = load_corpus(path, splits="official")
    assert reason in corpus.defects[0].reason


def test_malformed_rows_are_skipped_with_line_and_reason(tmp_path):
    good = [sentence(f"d{n}", f"Text {n}.", f"Text {n}!", "style") for n in range(3)]
    bad = [
        ('{"before_sent": "cut off', "not a JSON object"),
        ("[1, 2]", "not a JSON object"),
        ({key: value for key, value in good[0].items() if key != "after_sent"}, "the field 'after_sent' is missing"),
        (good[0] | {"before_sent": 7}, "the field 'before_sent' is int, not a string"),
        (good[0] | {"labels": "typo"}, "unknown intention 'typo'"),
        (good[0] | {"doc_id": ""}, "the field 'doc_id' is empty"),
        (good[0] | {"before_sent": "", "after_sent": " "}, "both 'before_sent' and 'after_sent' are empty"),
        ('{"before_sent": "\\ud800", "after_sent": "x", "labels": "style", "doc_id": "d"}', "surrogate"),
    ]
    path = write_lines(tmp_path / "train.json", [good[0], "", *(row for row, _ in bad), *good[1:]])
    corpus = load_corpus(path, splits="official")
    assert len(corpus) == 3
    assert [defect.row for defect in corpus.defects] == list(range(3, 11))  # the blank line counts as a line
    for defect, (_, reason) in zip(corpus.defects, bad, strict=True):
        assert reason in defect.reason
        assert defect.file == "train.json"
        assert not defect.kept
    with pytest.raises(CorpusError, match=r"8 defective row\(s\), the first is train.json:3"):
        load_corpus(path, strict=True)


def test_a_first_line_that_is_broken_does_not_hide_the_format(tmp_path):
    path = write_lines(tmp_path / "train.json", ["{", sentence("d", "A b.", "A c.", "style")])
    assert load_corpus(path, splits="official").name == "iterater-sent"


def test_forcing_the_wrong_format_says_which_fields_there_are(iterater):
    with pytest.raises(CorpusError, match="before_revision, after_revision, edit_actions, doc_id but before_sent"):
        load_corpus(f"iterater-doc:{iterater / 'human_sent_level'}")
