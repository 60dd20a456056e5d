"""ArgRewrite V.2: units of the alignment, their purposes, and the known traps of the files."""

from __future__ import annotations

import pytest
from layerselect.data import CorpusError, load_corpus
from layerselect.data.argrewrite_text import Essays, mend, undo_wrong_code_page

CLARITY, GENERAL, CLAIM = "Word-Usage/Clarity", "General Content Development", "Claims/Ideas"
SPELLING, ORGANIZATION = "Conventions/Grammar/Spelling", "Organization"

OLD = [
    (1, "Same here.", "1", None),
    (2.0, "Cars is good.", "2", SPELLING),
    (3, "They are fast.", "3", CLARITY),
    (4, "They are safe.", "3", None),
    (5, "Gone.", "DELETE", CLAIM),
    (6, "Odd  spaces.", "5", SPELLING),
    (7, "Not seen.", "6", "Unannotated"),
    (8, "Nobody said why.", "7", None),
]
NEW = [
    (1, "Same here.", "1", None),
    (2.0, "Cars are good.", "2", SPELLING),
    (3, "They are fast and safe.", "3,4", f"{CLARITY},{ORGANIZATION}"),
    (4, "Fresh idea.", "ADD", GENERAL),
    (5, "Odd spaces.", "6", SPELLING),
    (6, "Not looked at.", "7", "Unannotated"),
    (7, "Nobody says why.", "8", None),
]


@pytest.fixture
def argrewrite(tmp_path, workbook):
    """Three writers; the first has the sheets above, the two others one change each."""
    folder = tmp_path / "argrewrite_v2"
    annotations = folder / "dataset" / "annotations"
    workbook(annotations / "A" / "12" / "Annotation_2018argrewrite_7_NEW.txt.xlsx", OLD, NEW, wide=True)
    for condition, drafts, writer, suffix in (("A", "23", 7, "_NEW_NEW"), ("B", "12", 8, ""), ("C", "12", 9, "_NEW")):
        path = annotations / condition / drafts / f"Annotation_2018argrewrite_{writer}{suffix}.txt.xlsx"
        workbook(path, [(1, f"Old {writer}.", "1", CLAIM)], [(1, f"New {writer}.", "1", CLAIM)])
    return folder


def by_id(corpus):
    return {row["id"]: row for split in corpus.splits.values() for row in split}


def test_units_are_the_components_of_the_alignment(argrewrite):
    rows = by_id(load_corpus(argrewrite))
    assert set(rows) == {"A-12-7-o2-n2", "A-12-7-o3.4-n3", "A-12-7-o5-n", "A-12-7-o-n4"} | {
        "A-23-7-o1-n1",
        "B-12-8-o1-n1",
        "C-12-9-o1-n1",
    }
    merged = rows["A-12-7-o3.4-n3"]
    assert merged["before"] == "They are fast. They are safe."
    assert merged["after"] == "They are fast and safe."
    assert merged["intentions"] == [ORGANIZATION, CLARITY]  # the union over both sheets, sorted
    assert merged["before_context"] == "Cars is good."
    assert merged["after_context"] == "Gone."


def test_deletions_and_additions_follow_the_alignment_not_the_operation(argrewrite):
    rows = by_id(load_corpus(argrewrite))
    gone, added = rows["A-12-7-o5-n"], rows["A-12-7-o-n4"]
    assert (gone["before"], gone["after"], gone["intentions"]) == ("Gone.", "", [CLAIM])
    assert (added["before"], added["after"], added["intentions"]) == ("", "Fresh idea.", [GENERAL])
    # An addition has neighbours in the new draft only.
    assert (added["before_context"], added["after_context"]) == ("They are fast and safe.", "Odd spaces.")


def test_what_is_left_out_is_counted(argrewrite):
    corpus = load_corpus(argrewrite)
    assert "4 workbooks of 3 writers were read; documents are writers" in corpus.notes
    assert "1 sentences without a change were left out" in corpus.notes
    assert any(note.startswith("1 labelled units whose sides are equal") for note in corpus.notes)
    assert "1 units marked Unannotated only were dropped" in corpus.notes
    (defect,) = corpus.defects
    assert defect.file == "A/12/Annotation_2018argrewrite_7_NEW.txt.xlsx"
    assert (defect.row, defect.reason) == (9, "a changed sentence has no revision purpose")


def test_splits_go_by_writer(argrewrite):
    rows = by_id(load_corpus(argrewrite))
    assert {row["doc_id"] for row in rows.values()} == {"writer-7", "writer-8", "writer-9"}
    assert rows["A-12-7-o2-n2"]["split"] == rows["A-23-7-o1-n1"]["split"]


def test_surface_and_content(argrewrite):
    corpus = load_corpus(argrewrite, labels="surface-content")
    assert corpus.labels == ["content", "surface"]
    rows = by_id(corpus)
    assert rows["A-12-7-o3.4-n3"]["intentions"] == ["surface"]  # two purposes of one kind
    assert rows["A-12-7-o5-n"]["intentions"] == ["content"]
    assert not corpus.multi_label


def test_units_with_several_purposes_can_be_dropped(argrewrite):
    assert load_corpus(argrewrite).multi_label
    single = load_corpus(argrewrite, multi="drop")
    assert not single.multi_label
    assert "A-12-7-o3.4-n3" not in by_id(single)
    assert "1 rows with several labels were dropped" in single.notes


def test_the_dataset_folder_is_recognised_too_and_other_folders_are_not(argrewrite, tmp_path):
    assert len(load_corpus(argrewrite / "dataset")) == 7
    assert len(load_corpus(argrewrite / "dataset" / "annotations")) == 7
    with pytest.raises(CorpusError, match="holds no ArgRewrite V.2 workbooks"):
        load_corpus(f"argrewrite:{tmp_path}")
    with pytest.raises(CorpusError, match="give argrewrite:PATH"):
        load_corpus("argrewrite")


def test_there_are_no_official_splits(argrewrite):
    with pytest.raises(CorpusError, match="no official splits"):
        load_corpus(argrewrite, splits="official")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((1, "Old.", "9", CLAIM), "aligned with sentence 9, which the sheet 'New Draft' does not have"),
        ((1, "Old.", "x", CLAIM), "'x' is no sentence index"),
        ((1, "Old.", None, CLAIM), "'Aligned Index' is 'None'"),
        ((1, "Old.", "ADD", CLAIM), "'ADD' is no sentence index"),
        ((1, "Old.", "1", "Fun"), "unknown purpose 'Fun'"),
        ((1, None, "1", CLAIM), "'Sentence Content' is empty"),
        (("one", "Old.", "1", CLAIM), "'one' is no sentence index"),
    ],
)
def test_a_malformed_cell_is_a_defect_of_its_row_and_costs_its_unit_only(argrewrite, workbook, row, reason):
    path = argrewrite / "dataset" / "annotations" / "D" / "12" / "Annotation_2018argrewrite_5_NEW.txt.xlsx"
    keep = (2, "Stays.", "2", CLAIM)
    workbook(path, [row, keep], [(1, "New.", "DELETE" if row[2] is None else "1", None), (2, "Left.", "2", CLAIM)])
    corpus = load_corpus(argrewrite)
    mine = [defect for defect in corpus.defects if defect.file.startswith("D/")]
    assert any(defect.row == 2 and reason in defect.reason for defect in mine), mine
    assert "D-12-5-o2-n2" in by_id(corpus)
    assert "D-12-5-o1-n1" not in by_id(corpus)


def test_a_workbook_that_cannot_be_read_is_a_defect_of_the_whole_file(argrewrite):
    path = argrewrite / "dataset" / "annotations" / "C" / "12" / "Annotation_2018argrewrite_3_NEW.txt.xlsx"
    path.write_bytes(b"this is no zip archive")
    corpus = load_corpus(argrewrite)
    (defect,) = [defect for defect in corpus.defects if "argrewrite_3_" in defect.file]
    assert defect.row == 0
    assert "not a readable .xlsx workbook" in defect.reason
    assert len(corpus) == 7


def test_damaged_cells_are_mended(argrewrite, workbook):
    annotations = argrewrite / "dataset" / "annotations"
    path = annotations / "B" / "23" / "Annotation_2018argrewrite_8_NEW.txt.xlsx"
    old = [(1, "It isn’t so.", "1", CLARITY), (2, 'A ""blind"" car.', "2", CLAIM), (3, '""Odd""', "3", CLAIM)]
    new = [(1, "It isnÃ¢â‚¬â„¢t so.", "1", CLARITY), (2, "A lost car.", "2", CLAIM), (3, "Odd.", "3", CLAIM)]
    workbook(path, old, new)
    essay = argrewrite / "dataset" / "essays" / "Draft2" / "draft2_2018argrewrite_8.txt"
    essay.parent.mkdir(parents=True)
    essay.write_text("It isn’t so.\n\nA “blind”  car.", encoding="utf-8")
    rows = by_id(load_corpus(argrewrite))
    assert "B-23-8-o1-n1" not in rows  # equal once the code page is undone
    assert rows["B-23-8-o2-n2"]["before"] == 'A "blind" car.'
    assert rows["B-23-8-o3-n3"]["before"] == '""Odd""'  # the essay does not say: it stays


def test_undoing_a_wrong_code_page_leaves_good_text_alone():
    for text in ("naïve café", "“So”, he said – “no…”", "5 € für Äpfel", "日本語", "Â", "a Ã b"):
        assert undo_wrong_code_page(text) == text
    damaged = "don’t".encode().decode("cp1252")
    assert undo_wrong_code_page(damaged) == "don’t"
    assert undo_wrong_code_page("carsÂ\x9d.") == "cars."


def test_doubled_quotes_stay_where_the_essays_do_not_have_single_ones():
    essays = Essays(['He said ""no"". She said "yes".'])
    assert mend('She said ""yes"".', essays) == 'She said "yes".'
    assert mend('He said ""no"".', essays) == 'He said ""no"".'
