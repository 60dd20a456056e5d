"""ArgRevision in the two shapes that its authors' public code reads and writes; nobody gave us the corpus itself."""

from __future__ import annotations

import pytest
from layerselect.data import CorpusError, Defect, describe, load_corpus, read_revisions

from tests.data.conftest import write_lines

openpyxl = pytest.importorskip("openpyxl", reason="the extra 'data' is not installed")

COLUMNS = ("old_sentences", "new_sentences", "purpose_labels")
ROWS = [
    ("He was poor.", "He was poor because crops failed.", "LCE"),
    (None, "Schools got lunches.", "relevant"),
    ("I like dogs.", None, "irrelevant"),
    ("They had no water.", "They had no clean water.", " Already  Exists "),
    ("So it works.", "So the plan works.", "not lce"),
    ("In sum.", "In sum, yes.", "commentary"),
    ("A claim.", "Another claim.", "claim"),
    ("Equal  text.", "Equal text.", "relevant"),
    ("Typo hre.", "Typo here.", None),
]


def write_workbook(path, rows, columns=COLUMNS):
    book = openpyxl.Workbook()
    for row in (columns, *rows):
        book.active.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


@pytest.fixture
def one(tmp_path):
    return write_workbook(tmp_path / "revision_purpose.xlsx", ROWS)


ESSAY = ("old_sentence_ids", "old_sentences", "new_sentences", "new_sentence_ids", "coarse_labels", "purpose_labels")
# As the authors write a workbook: both drafts in order, numbered from 0, with a gap on the side that lacks a sentence.
DRAFTS = [
    (0, "First.", "First.", 0, None, None),
    (1, "Second.", "The second.", 1, "content", "LCE"),
    (None, None, "Brand new.", 2, "content", "relevant"),
    (2, "Third.", "Third.", 3, None, None),
    (3, "Gone.", None, None, "content", "irrelevant"),
    (4, "Lsat.", "Last.", 4, "surface", None),
]


@pytest.fixture
def essays(tmp_path):
    """One workbook an essay, in a folder for each of the two articles that pupils wrote about."""
    folder = tmp_path / "revision_purpose"
    write_workbook(folder / "mvp" / "7.xlsx", DRAFTS, ESSAY)
    write_workbook(folder / "space" / "7.xlsx", [(1, "A.", "B.", 1, "content", "commentary")], ESSAY)
    write_workbook(folder / "space" / "8.xlsx", [(1, "C.", "D.", 1, "content", "not LCE")], ESSAY)
    return folder


def rows_of(corpus):
    return {row["id"]: row for split in corpus.splits.values() for row in split}


def test_one_workbook(one):
    corpus = load_corpus(one)
    assert corpus.name == "argrevision"
    assert corpus.labels == ["LCE", "already exists", "commentary", "irrelevant", "not LCE", "relevant"]
    rows = rows_of(corpus)
    assert len(rows) == 6
    assert (rows["revision_purpose-3"]["before"], rows["revision_purpose-3"]["after"]) == ("", "Schools got lunches.")
    assert (rows["revision_purpose-4"]["before"], rows["revision_purpose-4"]["after"]) == ("I like dogs.", "")
    assert rows["revision_purpose-5"]["intentions"] == ["already exists"]
    assert rows["revision_purpose-6"]["intentions"] == ["not LCE"]
    assert corpus.defects == []
    for words in (
        "'claim' (1 rows)",
        "1 labelled rows whose sides are equal",
        "1 changed sentences without a purpose",
        "nothing names the essay of 7 rows",
    ):
        assert any(words in note for note in corpus.notes), corpus.notes
    assert "claim" in load_corpus(one, labels="all").labels


@pytest.mark.parametrize("source", ["FILE", "argrevision:FILE", "FOLDER", "argrevision:FOLDER"])
def test_it_is_recognised(one, source):
    place = source.replace("FILE", str(one)).replace("FOLDER", str(one.parent))
    assert load_corpus(place).name == "argrevision"


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_other_tables_with_the_three_columns(tmp_path, suffix):
    path = tmp_path / f"all.{suffix}"
    if suffix == "jsonl":
        write_lines(path, [dict(zip(COLUMNS, row, strict=True)) for row in ROWS])
    else:
        tab = "," if suffix == "csv" else "\t"
        lines = [tab.join(f'"{cell or ""}"' for cell in row) for row in (COLUMNS, *ROWS)]
        path.write_text("\n".join(lines), encoding="utf-8")
    corpus = load_corpus(path)
    assert (corpus.name, len(corpus)) == ("argrevision", 6)


def test_an_essay_column_keeps_essays_together(tmp_path):
    rows = [(f"Old {n}.", f"New {n}.", "LCE" if n % 2 else "relevant", float(n // 4)) for n in range(40)]
    corpus = load_corpus(write_workbook(tmp_path / "all.xlsx", rows, (*COLUMNS, "essay_ids")))
    found = rows_of(corpus).values()
    assert {row["doc_id"] for row in found} == {str(n) for n in range(10)}
    assert describe(corpus).leaking_documents == {}
    assert {row["split"] for row in found} == {"train", "validation", "test"}
    assert not any("names the essay" in note for note in corpus.notes)


def test_workbooks_of_essays(essays):
    corpus = load_corpus(essays)
    rows = rows_of(corpus)
    assert {row["doc_id"] for row in rows.values()} == {"mvp/7", "space/7", "space/8"}
    assert set(rows) == {"mvp/7-3", "mvp/7-4", "mvp/7-6", "space/7-2", "space/8-2"}
    assert "3 workbooks were read" in corpus.notes
    assert "2 sentences without a change were left out" in corpus.notes


@pytest.mark.parametrize(
    ("row", "before", "after"),
    [
        ("mvp/7-3", "First.", "Third."),  # a change is read in the old draft
        ("mvp/7-4", "The second.", "Third."),  # an addition has a place in the new one only
        ("mvp/7-6", "Third.", "Lsat."),  # a deletion
        ("space/8-2", "", ""),
    ],
)
def test_the_sentences_around_are_those_of_the_draft(essays, row, before, after):
    found = rows_of(load_corpus(essays))[row]
    assert (found["before_context"], found["after_context"]) == (before, after)


def test_the_sentences_around_are_found_by_number_not_by_row(tmp_path):
    """A joined and shuffled table gives the same contexts as the workbooks in order."""
    rows = [(*row, essay) for essay in ("1", "2", "3") for row in DRAFTS]
    path = write_workbook(tmp_path / "all.xlsx", rows[::-1], (*ESSAY, "essay_ids"))
    found = [row for row in rows_of(load_corpus(path)).values() if row["after"] == "Brand new."]
    assert [(row["before_context"], row["after_context"]) for row in found] == [("The second.", "Third.")] * 3


def test_official_splits_from_file_names(tmp_path):
    for name in ("train", "dev"):
        write_workbook(tmp_path / f"{name}.xlsx", [(f"Old {name}.", "New.", "LCE"), ("X.", "Y.", "relevant")])
    corpus = load_corpus(tmp_path, splits="official")
    assert {name: len(split) for name, split in corpus.splits.items()} == {"train": 2, "validation": 2}
    assert "1 document stands in train and validation" in corpus.notes  # X. stands in both


def test_malformed_rows_are_named(tmp_path):
    path = write_workbook(
        tmp_path / "bad.xlsx",
        [*ROWS, ("A.", "B.", "colour"), (None, " ", "LCE"), (3, "C.", "LCE"), ("D.", "E.", 5)],
    )
    assert load_corpus(path).defects == [
        Defect("bad.xlsx", 11, "unknown purpose 'colour'"),
        Defect("bad.xlsx", 12, "both 'old_sentences' and 'new_sentences' are empty"),
        Defect("bad.xlsx", 13, "the field 'old_sentences' is int, not a string"),
        Defect("bad.xlsx", 14, "unknown purpose '5'"),
    ]
    with pytest.raises(CorpusError, match=r"4 defective row\(s\), the first is bad.xlsx:11"):
        load_corpus(path, strict=True)


def test_the_wrong_file_under_the_name(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", [{"before": "a", "after": "b"}])
    with pytest.raises(
        CorpusError, match="has not the columns old_sentences, new_sentences, purpose_labels but before"
    ):
        load_corpus(f"argrevision:{path}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="holds no corpus that is known"):
        load_corpus(f"argrevision:{tmp_path / 'empty'}")


def test_predict_reads_its_columns(one):
    assert [row["before"] for row in read_revisions(one)[:2]] == ["He was poor.", ""]
