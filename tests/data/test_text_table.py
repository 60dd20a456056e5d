"""Separated values as people and programs leave them: read, or refused with the line and what to do."""

from __future__ import annotations

import pytest
from layerselect.data import CorpusError, load_corpus
from layerselect.data.tables import read_file


def read(tmp_path, content, name="x.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (table,) = read_file(path)
    return table


def cells(table):
    return [list(record.values()) if isinstance(record, dict) else str(record) for _, record in table.records]


@pytest.mark.parametrize(
    ("content", "guess"),
    [
        ("before;after\na, b;c, d\n", ["read as separated by semicolons"]),
        ("before|after\na, b|c, d\n", ["read as separated by vertical bars"]),
        ("before\tafter\na, b\tc, d\n", ["read as separated by tabs"]),
        ("sep=;\nbefore;after\na, b;c, d\n", []),
        ('before,after\n"a, b","c, d"\n', []),
        ("before;after\ra, b;c, d\r", ["read as separated by semicolons"]),
        (
            "notes\n\nbefore;after\na, b;c, d\n",
            ["read as separated by semicolons", "line 3 is the header, and what stands above it was left out"],
        ),
        ("before;after;;\r\na, b;c, d;;;;\r\n", None),
        ("\ufeffbefore;after\na, b;c, d\n".encode(), ["read as separated by semicolons"]),
        ("before;after\na, b;c, d\n".encode("utf-16"), ["read as UTF-16 text", "read as separated by semicolons"]),
        (
            "before;after\na, b;c, d\n".encode("utf-16-le"),
            ["read as UTF-16-LE text", "read as separated by semicolons"],
        ),
        ("before;after\na, b;c, d\n".encode("utf-32"), ["read as UTF-32 text", "read as separated by semicolons"]),
    ],
)
def test_separators_encodings_and_lines_above_the_header(tmp_path, content, guess):
    table = read(tmp_path, content)
    assert cells(table)[0][:2] == ["a, b", "c, d"]
    assert guess is None or table.guesses == guess


def test_columns_that_the_caller_names_tell_the_separator_and_the_header(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("made on, Monday\nold;new;why\n" + "".join(f"a, {n};b;x\n" for n in range(9)))
    assert len(load_corpus(path, before="old", after="new", label="why")) == 9


def test_headers_in_the_middle_are_left_out_and_said(tmp_path):
    table = read(tmp_path, "before,after\na,b\nbefore,after\nc,d\n")
    assert cells(table) == [["a", "b"], ["c", "d"]]
    assert table.guesses == ["1 rows that repeat the header were left out (the first is line 3)"]


@pytest.mark.parametrize("length", [200_000, 2_000_000])
def test_cells_of_any_length(tmp_path, length):
    import csv

    before = csv.field_size_limit()
    assert cells(read(tmp_path, f'before,after\n"{"a" * length}",b\n')) == [["a" * length, "b"]]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('before,after\na,"b\nc,d\n', "line 3: the row that begins in line 2 has a quotation mark that is not closed"),
        ('before,after\n"a" b,c\n', "the row that begins in line 2"),
        ('before,after\na,b\n\n"c,d\ne,f\n"g" h,i\n', "the row that begins in line 4"),
    ],
)
def test_marks_that_are_not_closed_name_the_row(tmp_path, content, message):
    with pytest.raises(CorpusError, match=message):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        (
            'before,after\n"a,b\nc",d\ne,f\n',
            ["a quotation mark makes one row of lines 2 to 3, each of which is a row", ["e", "f"]],
        ),
        (
            'before,after\n"a\nb\nc"\nd,e\n',
            ["1 cells under 2 columns (a quotation mark makes one row of lines 2 to 4)", ["d", "e"]],
        ),
        ('before,after\n"a\nb",c\n', [["a\nb", "c"]]),
        ('before,after\n"a, b\nb, c\nd",c\n', [["a, b\nb, c\nd", "c"]]),
    ],
)
def test_rows_that_a_mark_swallows_are_said(tmp_path, content, reasons):
    assert cells(read(tmp_path, content)) == reasons


@pytest.mark.parametrize(
    ("content", "wanted", "plain"),
    [
        ('before\tafter\n"a\tb\nc"\td\n', [['"a', "b"], ['c"', "d"]], True),
        ('before\tafter\nsay "a"\tb\n"c"\td\n', [['say "a"', "b"], ['"c"', "d"]], True),
        ('before\tafter\n"a" b\tc\n', [['"a" b', "c"]], True),
        ('"before"\t"after"\n"a"\t"b"\n', [["a", "b"]], False),
        ('before\tafter\n"a"\tb\n"c"\td\n', [["a", "b"], ["c", "d"]], False),
        ('before\tafter\n"a\tb"\t"c\nd"\n', [["a\tb", "c\nd"]], False),
    ],
)
def test_tabs_with_and_without_quotation(tmp_path, content, wanted, plain):
    table = read(tmp_path, content, "x.tsv")
    assert cells(table) == wanted
    assert any("quotation marks are read as part" in guess for guess in table.guesses) is plain


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"PK\x03\x04rest", "is a zip archive or an Excel workbook.*rename it to .xlsx"),
        ("x.xlsx", b"\xd0\xcf\x11\xe0rest", r"old \(.xls\) or a password-protected workbook"),
        ("x.csv", b"PAR1rest", "is a Parquet file.*rename it to .parquet"),
        ("x.jsonl", b"\x1f\x8brest", "packed with gzip"),
        ("x.parquet", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ],
)
def test_files_that_are_not_what_their_suffix_says(tmp_path, name, content, message):
    with pytest.raises(CorpusError, match=message):
        read(tmp_path, content, name)


def test_what_was_guessed_is_said_and_described(tmp_path, caplog):
    path = tmp_path / "x.csv"
    path.write_text("before;after;label\n" + "".join(f"a{n};b;{'nan' if n % 3 else 'x'}\n" for n in range(12)))
    corpus = load_corpus(path)
    wanted = ["x.csv: read as separated by semicolons", "x.csv: 'nan' (8 cells) in 'label' is counted as missing"]
    assert corpus.notes[:2] == wanted
    assert [record.getMessage() for record in caplog.records][:2] == wanted
    assert len(corpus) == 4
