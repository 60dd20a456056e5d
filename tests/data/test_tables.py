"""Files of every type give the same records, and broken files one clear sentence."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from layerselect.data.schema import BadRow, CorpusError
from layerselect.data.tables import find_files, read_file
from layerselect.data.workbook_values import date_styles

RECORDS = [
    {"before": "A, b", "after": 'said "x"', "label": "style"},
    {"before": "ä\u2028ö", "after": "two\nlines", "label": "clarity"},  # U+2028 ends no line of JSON
]


def read_table(path):
    (table,) = read_file(path)
    return table


def write(path, records):
    if path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    else:
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(records)
        if path.suffix == ".parquet":
            frame.to_parquet(path)
        elif path.suffix == ".xlsx":
            frame.to_excel(path, index=False)
        else:
            frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".xlsx"])
def test_every_type_gives_the_same_records(tmp_path, suffix):
    table = read_table(write(tmp_path / f"dev{suffix}", RECORDS))
    assert [record for _, record in table.records] == RECORDS
    assert table.columns == ["before", "after", "label"]
    assert table.split == "validation"
    assert table.name == f"dev{suffix}"


@pytest.mark.parametrize(
    ("suffix", "rows"),
    [(".jsonl", [1, 2]), (".json", [1, 2]), (".csv", [2, 4]), (".parquet", [1, 2]), (".xlsx", [2, 3])],
)
def test_row_numbers_are_lines_or_rows_of_the_sheet(tmp_path, suffix, rows):
    # The second CSV record ends on line 4, since a cell of it holds a line break.
    assert [number for number, _ in read_table(write(tmp_path / f"x{suffix}", RECORDS)).records] == rows


def test_json_with_a_data_field_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("\ufeff" + json.dumps({"data": RECORDS}), encoding="utf-8")
    assert [record for _, record in read_table(path).records] == RECORDS


def test_csv_rows_of_another_length_are_malformed(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("before,after\na,b\nc\n\nd,e,f\n", encoding="utf-8")
    records = read_table(path).records
    assert records[0] == (2, {"before": "a", "after": "b"})
    assert [(number, str(record)) for number, record in records[1:]] == [
        (3, "1 cells under 2 columns"),
        (5, "3 cells under 2 columns"),
    ]
    assert isinstance(records[1][1], BadRow)


def test_excel_sheets_that_claim_to_be_one_cell_large_are_read_whole(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    import zipfile

    book = openpyxl.Workbook()
    for row in (["before", "after"], ["a", "b"], [None, None], ["c", None]):
        book.active.append(row)
    whole, lying = tmp_path / "whole.xlsx", tmp_path / "lying.xlsx"
    book.save(whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(lying, "w") as target:
        for item in source.namelist():
            target.writestr(item, source.read(item).replace(b'<dimension ref="A1:B4"', b'<dimension ref="A1"'))
    assert read_table(lying).records == [(2, {"before": "a", "after": "b"}), (4, {"before": "c", "after": None})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"a", "has the suffix '.txt': give one of .jsonl"),
        ("x.pkl", b"a", "has the suffix '.pkl'"),
        ("x.csv", b"", "is empty"),
        ("x.jsonl", b" \n\n", "is empty"),
        ("x.csv", b"before,after\n", "holds no rows"),
        ("x.json", b"[]", "holds no rows"),
        ("x.json", b"[1, 2", "neither JSON lines nor JSON"),
        ("x.json", b"hello\nworld\n", "neither JSON lines nor JSON"),
        ("x.json", b"[" * 100_000, "neither JSON lines nor JSON"),
        ("x.json", b"3", "no list of objects"),
        ("x.jsonl", '{"a": "é"}\n'.encode("latin-1"), r"is not UTF-8 \(first at line 1\)"),
        ("x.csv", b"\xff\xfea,b\n1,2\n\x00", "looks like UTF-16 and is not"),
        ("x.csv", b'a,b\n1,"2\n3,4\n', "cannot be read as CSV near line 3"),
        ("x.csv", b"a,a\n1,2\n", "more than one column 'a'"),
        ("x.parquet", b"PAR1 no", "not a readable Parquet file"),
        ("x.xlsx", b"PK no", "not a readable .xlsx workbook"),
    ],
)
def test_broken_files_give_one_sentence(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_missing_files_and_folders_cannot_be_read(tmp_path):
    with pytest.raises(CorpusError, match=r"cannot read .*none.csv: No such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(CorpusError, match="Is a directory"):
        read_table(tmp_path / "folder.csv")


def test_files_named_after_splits_win_over_other_files(tmp_path):
    for name in ("train.csv", "valid.csv", "notes.csv", "readme.txt"):
        (tmp_path / name).write_text("x")
    assert [path.name for path in find_files(tmp_path)] == ["train.csv", "valid.csv"]


def test_two_files_for_one_split_and_folders_without_data_are_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"holds no corpus that is known and no \.jsonl.*: give a file"):
        find_files(tmp_path)
    (tmp_path / "below").mkdir()
    with pytest.raises(CorpusError, match=r"one of its folders \(below\) may be meant"):
        find_files(tmp_path)
    for name in ("dev.csv", "valid.csv"):
        (tmp_path / name).write_text("x")
    with pytest.raises(CorpusError, match=r"two files for validation, dev\.csv and valid\.csv"):
        find_files(tmp_path)


@pytest.mark.parametrize(
    ("number", "is_date"), [("14", True), ("1", False), ("\u00b2", False), ("x", False), ("9" * 9, False)]
)
def test_formats_of_cells_are_numbers_or_nothing(number, is_date):
    """A superscript two is a digit and no number."""
    root = ElementTree.fromstring(f'<styleSheet><cellXfs><xf numFmtId="{number}"/></cellXfs></styleSheet>')
    assert date_styles(root) == [is_date]
