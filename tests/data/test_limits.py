"""Files that are small and would cost much: each is refused in one sentence, before it costs anything."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile

import pytest
from layerselect.data import CorpusError, load_corpus, read_revisions
from layerselect.data.splits import CELLS, TRIES, document_splits
from layerselect.data.tables import find_files, read_file, read_tables

from tests.data.conftest import write_lines

HEADER = (
    '<row r="1"><c r="A1" t="inlineStr"><is><t>before</t></is></c>'
    '<c r="B1" t="inlineStr"><is><t>after</t></is></c></row>'
)


def workbook(path, rows, strings="<sst/>", root="worksheet"):
    """A workbook of the least parts that make one."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", '<w xmlns:r="r"><sheets><sheet name="S" r:id="a"/></sheets></w>')
        relations = (
            '<Relationship Id="a" Type="x/worksheet" Target="s.xml"/>'
            '<Relationship Id="b" Type="x/sharedStrings" Target="t.xml"/>'
        )
        archive.writestr("xl/_rels/workbook.xml.rels", f"<r>{relations}</r>")
        archive.writestr("xl/s.xml", f'<{root} xmlns="m"><sheetData>{HEADER}{rows}</sheetData></{root}>')
        archive.writestr("xl/t.xml", strings)
    return path


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('<row r="99999999999999"><c r="A2"><v>1</v></c></row>', "says that it is row 99999999999999"),
        ('<row r="-3"/>', "a row has the number '-3'"),
        ('<row r="2"><c r="XFE2"><v>1</v></c></row>', "stands in column 'XFE'"),
        ('<row r="2"><c r="2"><v>1</v></c></row>', "stands in column ''"),
        ('<row r="2"><c r="A2" t="s"><v>7</v></c></row>', "not a readable .xlsx workbook"),
        ('<row r="2"><c r="A2" t="s"><v>x</v></c></row>', "not a readable .xlsx workbook"),
        ("<a>" * 100 + "</a>" * 100, "more than 64 deep"),
        ("<row/>" + " " * 40_000_000, "unpacks to more than 32 MB"),
        ('<row><c r="A2"><v>1</v></c></row>' * 60_000, "holds more than 50,000 rows"),
        ("<row/>" * 600_000, "holds more than 500,000 pieces"),
        ("<row", "not a readable .xlsx workbook"),
    ],
)
def test_workbooks_beyond_the_limits(tmp_path, rows, message):
    with pytest.raises(CorpusError, match=message) as caught:
        read_file(workbook(tmp_path / "x.xlsx", rows))
    assert "\n" not in str(caught.value)
    assert "x.xlsx" in str(caught.value)


def test_a_workbook_that_declares_a_document_type_is_refused(tmp_path):
    path = workbook(tmp_path / "x.xlsx", "", strings='<!DOCTYPE a [<!ENTITY b "b">]><sst><si><t>&b;</t></si></sst>')
    with pytest.raises(CorpusError, match="declares a document type"):
        read_file(path)


def test_cells_as_workbooks_have_them(tmp_path):
    cells = (
        '<c r="A2"><v>3</v></c>',
        '<c r="A2"><v>3.5</v></c>',
        '<c r="A2" t="b"><v>1</v></c>',
        '<c r="A2" t="e"><v>#N/A</v></c>',
        '<c r="A2" t="str"><f>A1</f><v>x</v></c>',
        '<c r="A2"><f>1+1</f></c>',
        '<c r="A2"/>',
        "<c><v>7</v></c>",
        '<c r="A2" t="s"><v>0</v></c>',
        f'<c r="A2"><v>{"9" * 400}</v></c>',
    )
    rows = "".join(f'<row r="{n}">{cell}<c r="B2"><v>0</v></c></row>' for n, cell in enumerate(cells, start=2))
    strings = "<sst><si><r><t>one </t></r><r><t>text_x0009_</t></r><rPh><t>spoken</t></rPh></si></sst>"
    (table,) = read_file(workbook(tmp_path / "x.xlsx", rows, strings))
    found = [record["before"] for _, record in table.records]
    assert found == [3, 3.5, True, "#N/A", "x", "=1+1", None, 7, "one text\t", float("inf")]
    assert table.guesses == ["1 cells are formulas without a saved value and are read as their text"]


def test_a_text_that_parquet_repeats_is_counted_as_often_as_it_stands_there(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    once = arrow.DictionaryArray.from_arrays(arrow.array([0] * 4000, arrow.int32()), arrow.array(["a" * 100_000]))
    parquet.write_table(arrow.table({"before": once, "after": once}), path)
    assert path.stat().st_size < 20_000
    with pytest.raises(CorpusError, match="unpacks to more than 32 MB"):
        read_file(path)
    lists = arrow.array([["a" * 1000] * 100_000] * 3)
    parquet.write_table(
        arrow.table({"before": ["a"] * 3, "after": ["b"] * 3, "label": lists}), path, compression="zstd"
    )
    with pytest.raises(CorpusError, match="unpacks to more than 32 MB"):
        read_file(path)
    parquet.write_table(arrow.table({"before": arrow.nulls(60_000, arrow.string())}), path)
    with pytest.raises(CorpusError, match="more than 50,000 rows"):
        read_file(path)


def test_wide_and_long_tables(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(",".join(["before", "after", *(f"c{n}" for n in range(20_000))]) + "\na,b" + "," * 20_000 + "\n")
    with pytest.raises(CorpusError, match="has 20,002 columns, and at most 16,384"):
        read_file(path)
    path.write_text("before,after\n" + "a,b\n" * 60_000)
    with pytest.raises(CorpusError, match="more than 50,000 rows"):
        read_file(path)
    write_lines(tmp_path / "x.jsonl", [{f"c{n}": 1 for n in range(20_000)}])
    with pytest.raises(CorpusError, match="has 20,000 columns"):
        read_file(tmp_path / "x.jsonl")


def test_json_that_is_deep_or_has_long_numbers(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"before": ' + "[" * 100_000 + "\n" + '{"before": ' + "9" * 5000 + '}\n{"before": "a", "after": "b"}\n'
    )
    defects = []
    assert len(read_revisions(path, defects=defects)) == 1
    assert "a number of 5,000 digits" in str(defects[1])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("~nobody-of-that-name/x.csv", "names the home of a user"),
        ("a\0b.csv", "holds a NUL character"),
        ("", "is empty"),
        ("a" * 5000, "cannot look at aaa.* ... .*: File name too long"),
        ("line\nbreak.csv", r"no file or folder line\\nbreak.csv"),
        ("\ud800.csv", r"cannot look at \\ud800.csv"),
        ("/dev/null", "has the suffix ''"),
        ("nowhere.csv", "no file or folder nowhere.csv"),
        ("generic:~nobody-of-that-name", "names the home of a user"),
    ],
)
def test_paths_that_are_none(path, message):
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(path)
    str(caught.value).encode("utf-8")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.csv")
    for read in (load_corpus, read_revisions):
        with pytest.raises(CorpusError, match="is a pipe or a device"):
            read(tmp_path / "x.csv")


def test_links_and_saved_files_that_lead_out_of_the_folder(tmp_path):
    outside = write_lines(tmp_path / "outside.jsonl", [{"before": "a", "after": "b"}])
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").symlink_to(outside)
    with pytest.raises(CorpusError, match="is a link to .*outside.jsonl, which does not lie in"):
        find_files(folder)
    assert len(read_file(folder / "train.jsonl")[0].records) == 1  # named by the user, so meant
    snapshot = tmp_path / "hub" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "hub" / "blobs").mkdir()
    blob = write_lines(tmp_path / "hub" / "blobs" / "123", [{"before": "a", "after": "b"}])
    (snapshot / "train.jsonl").symlink_to(blob)
    assert len(find_files(snapshot)) == 1  # as the hub's cache lays out what it fetched


@pytest.mark.parametrize("name", ["../outside.arrow", "/etc/passwd", "..", "", "a\0b", "below/x.arrow"])
def test_saved_sets_whose_files_lie_elsewhere(tmp_path, name):
    (tmp_path / "outside.arrow").write_bytes(b"x")
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "x.arrow").write_bytes(b"x")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(CorpusError, match="does not lie in it"):
        read_tables(folder)


def test_parts_of_a_split_are_read_together_and_must_all_be_there(tmp_path):
    for n in range(3):
        write_lines(tmp_path / f"train-0000{n}-of-00003.jsonl", [{"before": "a", "after": f"b{n}"}])
    assert [table.split for table in read_tables(tmp_path)] == ["train"] * 3
    (tmp_path / "train-00001-of-00003.jsonl").unlink()
    with pytest.raises(CorpusError, match="has 2 of the 3 parts of train"):
        read_tables(tmp_path)


def test_splits_of_many_documents_and_labels(monkeypatch):
    calls = []
    monkeypatch.setattr("layerselect.data.splits._cuts", lambda sizes, shares: calls.append(1) or [0, 1, 2, len(sizes)])
    document_splits([str(n) for n in range(100)], [["a"]] * 100)
    assert len(calls) == TRIES  # of a corpus of usual size nothing changed
    calls.clear()
    many = 20_000
    assert many * many > CELLS
    document_splits([str(n) for n in range(many)], [[str(n)] for n in range(many)])
    assert 4 <= len(calls) < 16


def test_broken_insides_of_arrow_files_are_refused(tmp_path):
    """Arrow believes what such a file says: unchecked, some of these end the process."""
    arrow = pytest.importorskip("pyarrow")
    path = tmp_path / "x.arrow"
    table = arrow.table({"before": ["ab", "cde", "f"], "after": ["x"] * 3})
    with arrow.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for value in (0xFF, 0x80, 0):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            with contextlib.suppress(CorpusError):
                read_file(path)
