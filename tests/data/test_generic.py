"""Tables of the user's own."""

from __future__ import annotations

import pytest
from layerselect.data import CorpusError, load_corpus

from tests.data.conftest import write_lines


def rows_of(corpus):
    return {row["id"]: row for split in corpus.splits.values() for row in split}


def record(n, **more):
    return {"before": f"Old {n}.", "after": f"New {n}.", "label": "ab"[n % 2], **more}


def test_usual_column_names_are_found_without_being_named(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", [record(n) for n in range(10)])
    corpus = load_corpus(path)
    assert corpus.name == "mine.jsonl"
    assert corpus.labels == ["a", "b"]
    assert len(corpus) == 10
    assert rows_of(corpus)["mine.jsonl-3"]["before"] == "Old 2."


def test_named_columns_and_optional_ones(tmp_path):
    rows = [
        {"src": f"s{n}", "tgt": f"t{n}", "why": "x", "essay": n // 2, "id": 100 + n, "before_context": "Front."}
        for n in range(6)
    ]
    corpus = load_corpus(
        write_lines(tmp_path / "x.jsonl", rows), before="src", after="tgt", label="why", doc_id="essay"
    )
    row = rows_of(corpus)["103"]
    assert (row["before"], row["after"], row["doc_id"]) == ("s3", "t3", "1")
    assert (row["before_context"], row["after_context"]) == ("Front.", "")
    assert len({row["doc_id"] for row in rows_of(corpus).values()}) == 3


@pytest.mark.parametrize("name", ["before", "label", "doc_id"])
def test_a_wrong_column_lists_the_columns_there_are(tmp_path, name):
    path = write_lines(tmp_path / "x.jsonl", [record(n) for n in range(3)])
    with pytest.raises(CorpusError, match=r"x\.jsonl has no column 'nope'; its columns are 'before', 'after', 'label'"):
        load_corpus(path, **{name: "nope"})


def test_several_wrong_columns_are_listed(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("old,new,why\na,b,c\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="has no columns 'before', 'after' and 'label'; its columns are 'old', 'new'"):
        load_corpus(path)


def test_naming_a_column_turns_recognition_off(iterater):
    path = iterater / "human_sent_level"
    corpus = load_corpus(path, before="before_sent", after="after_sent", label="labels", splits="official")
    assert corpus.name == "human_sent_level"
    assert "others" in corpus.labels  # nothing is dropped from a table of one's own


def test_without_documents_equal_texts_stay_in_one_split(tmp_path):
    rows = [record(n % 5, after=f"Version {n}.") for n in range(40)]
    corpus = load_corpus(write_lines(tmp_path / "x.jsonl", rows))
    assert any("no column names the documents" in note for note in corpus.notes)
    for text in {row["before"] for row in rows}:
        assert len({row["split"] for row in rows_of(corpus).values() if row["before"] == text}) == 1


def test_label_cells_may_be_text_lists_numbers_or_joined(tmp_path):
    cells = ["a, b", ["a", "b"], 3, ["b"]]
    path = write_lines(tmp_path / "x.jsonl", [record(n, label=cell) for n, cell in enumerate(cells)])
    whole = load_corpus(path)
    assert whole.labels == ["3", "a", "a, b", "b"]  # a cell of text is one label unless told otherwise
    parted = load_corpus(path, label_delimiter=",")
    assert parted.labels == ["3", "a", "b"]
    assert rows_of(parted)["x.jsonl-1"]["intentions"] == ["a", "b"]
    assert parted.multi_label


@pytest.mark.parametrize("separator", [";", ",", "|", "/", "+", "\n"])
def test_labels_that_look_like_several_in_one_cell_are_told_of(tmp_path, caplog, separator):
    cells = ["style", f"content{separator} style", "grammar", f"content{separator} style"]
    path = write_lines(tmp_path / "x.jsonl", [record(n, label=cell) for n, cell in enumerate(cells)])
    whole = load_corpus(path)
    (note,) = [note for note in whole.notes if "label_delimiter" in note]
    assert note.startswith("2 rows have labels such as ") and "'style' is a label by itself" in note
    assert note in caplog.text
    assert whole.labels == sorted(set(cells))  # nothing is cut apart unasked
    caplog.clear()
    parted = load_corpus(path, label_delimiter=separator)
    assert parted.labels == ["content", "grammar", "style"]
    assert not any("label_delimiter" in note for note in parted.notes) and not caplog.text


def test_labels_that_are_spelled_in_several_ways_are_told_of(tmp_path, caplog):
    cells = ["Style", "style", "STYLE", "word usage", "word-usage", "other", "style"]
    corpus = load_corpus(write_lines(tmp_path / "x.jsonl", [record(n, label=cell) for n, cell in enumerate(cells)]))
    assert corpus.labels == sorted(set(cells))
    found = [note for note in corpus.notes if "differ in capitals" in note]
    assert found[0].startswith("the labels 'STYLE' (1), 'Style' (1), 'style' (2) differ in capitals")
    assert "'word usage'" in found[1] and "are 2 classes" in found[1] and len(found) == 2
    assert all(note in caplog.text for note in found)


def test_labels_whose_parts_are_no_labels_are_not_told_of(tmp_path, caplog):
    cells = ["Word-Usage/Clarity", "Claims, Ideas", "R&D", "a+"]
    corpus = load_corpus(write_lines(tmp_path / "x.jsonl", [record(n, label=cell) for n, cell in enumerate(cells)]))
    assert not any("label_delimiter" in note for note in corpus.notes) and not caplog.text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"before": 3}, "the field 'before' is int, not a string"),
        ({"label": ""}, "the label in 'label' is empty"),
        ({"label": None}, "the label in 'label' is empty"),
        ({"label": []}, "the label in 'label' is empty"),
        ({"label": float("nan")}, "the label in 'label' is empty"),
        ({"label": {"a": 1}}, "the label in 'label' is dict, not a string"),
        ({"label": [["a"]]}, "the label in 'label' is list, not a string"),
        ({"before": ["a"]}, "the field 'before' is list, not a string"),
        ({"before": "", "after": None}, "both 'before' and 'after' are empty"),
    ],
)
def test_malformed_rows(tmp_path, change, reason):
    path = write_lines(tmp_path / "x.jsonl", [*(record(n) for n in range(4)), record(9, **change)])
    corpus = load_corpus(path)
    assert [(d.file, d.row, d.reason) for d in corpus.defects] == [("x.jsonl", 5, reason)]
    assert len(corpus) == 4
    with pytest.raises(CorpusError, match=r"1 defective row\(s\), the first is x.jsonl:5"):
        load_corpus(path, strict=True)


def test_a_missing_field_is_a_defect_of_its_row_only(tmp_path):
    rows = [record(n) for n in range(4)]
    rows.append({"before": "x", "label": "a"})
    (defect,) = load_corpus(write_lines(tmp_path / "x.jsonl", rows)).defects
    assert defect.reason == "the field 'after' is missing"


def test_an_empty_side_is_an_addition_or_a_deletion(tmp_path):
    rows = [record(0, before=None), record(1, after=""), record(2)]
    texts = {
        (row["before"], row["after"]) for row in rows_of(load_corpus(write_lines(tmp_path / "x.jsonl", rows))).values()
    }
    assert texts == {("", "New 0."), ("Old 1.", ""), ("Old 2.", "New 2.")}


def test_nothing_usable_names_the_first_problem(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", [record(0, label=""), record(1, before=1)])
    with pytest.raises(
        CorpusError, match=r"no usable row; the first problem is x.jsonl:1: the label in 'label' is empty"
    ):
        load_corpus(path)


def test_official_splits_from_file_names(tmp_path):
    for name, numbers in (("train", range(4)), ("valid", range(4, 6)), ("test", range(6, 9))):
        write_lines(tmp_path / "set" / f"{name}.jsonl", [record(n, doc_id=f"d{n}") for n in numbers])
    corpus = load_corpus(tmp_path / "set", splits="official")
    assert {name: len(split) for name, split in corpus.splits.items()} == {"train": 4, "validation": 2, "test": 3}
    assert set(corpus.splits["validation"]["split"]) == {"validation"}


def test_official_splits_from_a_column(tmp_path):
    words = ["train", "train", "dev", "TEST"]
    path = write_lines(tmp_path / "x.jsonl", [record(n, split=word) for n, word in enumerate(words)])
    corpus = load_corpus(path, splits="official")
    assert {name: split["before"] for name, split in corpus.splits.items()} == {
        "train": ["Old 0.", "Old 1."],
        "validation": ["Old 2."],
        "test": ["Old 3."],
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "train", "extra"], "has a split 'extra': name splits train, validation"),
        (["train", "train", ""], r"no official splits \(some rows without one\)"),
        (["dev", "dev", "dev"], "has no official train split, only validation"),
    ],
)
def test_bad_split_columns(tmp_path, words, message):
    path = write_lines(tmp_path / "x.jsonl", [record(n, split=word) for n, word in enumerate(words)])
    with pytest.raises(CorpusError, match=message):
        load_corpus(path, splits="official")


def test_an_official_split_without_a_usable_row_is_named(tmp_path):
    write_lines(tmp_path / "train.jsonl", [record(n) for n in range(3)])
    write_lines(tmp_path / "dev.jsonl", [record(3, label="")])
    with pytest.raises(CorpusError, match="the official split 'validation' of .* has no usable row"):
        load_corpus(tmp_path, splits="official")


def test_several_files_without_split_names_are_read_together(tmp_path):
    for name in ("one", "two"):
        write_lines(tmp_path / f"{name}.jsonl", [record(n) for n in range(3)])
    assert len(load_corpus(tmp_path)) == 6


def test_repeated_ids_are_told_apart(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", [record(n, id="same" if n < 3 else "same#2") for n in range(4)])
    corpus = load_corpus(path)
    assert len(rows_of(corpus)) == 4
    assert any("2 rows repeat an id" in note for note in corpus.notes)
