"""Records out of files: JSON lines, JSON, CSV, TSV, Parquet, Excel. No pickles, no scripts."""

from __future__ import annotations

import csv
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from layerselect.data._extras import require
from layerselect.data.schema import BadRow, CorpusError
from layerselect.data.splits import split_name

Record = dict[str, Any]


@dataclass
class Table:
    """Records of one file (or one split of a hub set).

    Attributes:
        name: file name as defects print it.
        columns: names of all fields that occur, in the order in which they are first seen.
        records: (row number, record), or (row number, reason) where there is none to read; the row
            number is the line of a text file and the row of a sheet, both from 1.
        split: the split that the file's name says, or "".
    """

    name: str
    columns: list[str] = field(default_factory=list)
    records: list[tuple[int, Record | BadRow]] = field(default_factory=list)
    split: str = ""

    def add(self, row: int, record: Record | BadRow) -> None:
        self.records.append((row, record))
        if isinstance(record, dict):
            known = set(self.columns)
            self.columns.extend(key for key in record if key not in known)


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        CorpusError: it is missing, a folder, not readable, or empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error
    if not content.strip():
        raise CorpusError(f"{path} is empty: give a file with revisions in it")
    return content


def decode(content: bytes, name: str) -> str:
    """`content` as UTF-8 text, without a byte order mark.

    Raises:
        CorpusError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CorpusError(f"{name} is not UTF-8 (first at line {line}): save it as UTF-8 text") from error


def read_table(path: Path) -> Table:
    """Read a file by its suffix.

    Raises:
        CorpusError: missing, unreadable, empty, of an unknown type, or not what its suffix says.
        LayerSelectError: the package that reads this type is not installed.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise CorpusError(f"{path} has the suffix '{path.suffix}': give one of {', '.join(READERS)}")
    content = read_bytes(path)
    table = reader(content, str(path))
    table.name = path.name
    table.split = split_name(path.stem) or ""
    if not table.records:
        raise CorpusError(f"{path} holds no rows: give a file with revisions in it")
    return table


def read_json(content: bytes, name: str) -> Table:
    """JSON lines, one JSON list of objects, or an object whose field "data" is such a list.

    A list is told from lines by its first character, so that `.json` files with lines in them work too.
    """
    text = decode(content, name)
    if text.lstrip().startswith("["):
        return _json_list(text, name)
    table = Table(name)
    # Only "\n" ends a line: str.splitlines would cut at characters that JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            table.add(number, BadRow(f"not a JSON object ({_short(error)})"))
            continue
        table.add(number, record if isinstance(record, dict) else BadRow("not a JSON object"))
    if not table.columns:
        return _json_list(text, name)
    if len(table.records) == 1 and isinstance(record.get("data"), list):
        return _json_list(text, name)
    return table


def _json_list(text: str, name: str) -> Table:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{name} is neither JSON lines nor JSON: {_short(error)}") from error
    if isinstance(found, dict):
        found = found.get("data")
    if not isinstance(found, list):
        raise CorpusError(f"{name} holds JSON that is no list of objects: give one object a line, or a list")
    table = Table(name)
    for number, record in enumerate(found, start=1):
        table.add(number, record if isinstance(record, dict) else BadRow("not a JSON object"))
    return table


def read_csv(content: bytes, name: str, delimiter: str = ",") -> Table:
    """CSV with a header line; the row number of a record is the line on which it ends."""
    lines = csv.reader(io.StringIO(decode(content, name), newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(lines)
        _check_header(header, name)
        table = Table(name, columns=header)
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                reason = f"{len(cells)} cells under {len(header)} columns"
                table.add(lines.line_num, BadRow(reason))
            else:
                table.add(lines.line_num, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        # A quote that is never closed swallows the rest of the file: no row after it can be trusted.
        raise CorpusError(f"{name} cannot be read as CSV near line {lines.line_num}: {error}") from error
    return table


def read_tsv(content: bytes, name: str) -> Table:
    """Tab-separated values with a header line, quoted as in CSV."""
    return read_csv(content, name, delimiter="\t")


def read_parquet(content: bytes, name: str) -> Table:
    """Parquet; row numbers count records from 1."""
    arrow = require("pyarrow", "Reading Parquet")
    parquet = require("pyarrow.parquet", "Reading Parquet")
    try:
        found = parquet.read_table(io.BytesIO(content))
        columns, records = found.column_names, found.to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise CorpusError(f"{name} is not a readable Parquet file: {_short(error)}") from error
    return Table(name, columns=columns, records=list(enumerate(records, start=1)))


def read_excel(content: bytes, name: str) -> Table:
    """The first worksheet of an .xlsx file; row numbers are those of the sheet (the header is row 1)."""
    header, rows = next(iter(read_workbook(content, name).values()))
    _check_header(header, name)
    table = Table(name, columns=[column for column in header if column])
    for number, cells in rows:
        table.add(number, {key: value for key, value in zip(header, cells, strict=True) if key})
    return table


Sheets = dict[str, tuple[list[str], list[tuple[int, list[Any]]]]]


def read_workbook(content: bytes, name: str) -> Sheets:
    """Every worksheet: its name -> (header, [(row number, cells as many as the header's)]).

    Sheets are read in read-only mode, which is several times faster, and with the stored size of the
    sheet discarded: files of some writers claim to be one cell large. Empty rows are left out.

    Raises:
        CorpusError: not an .xlsx workbook, or one without a sheet.
    """
    openpyxl = require("openpyxl", "Reading Excel")
    invalid = require("openpyxl.utils.exceptions", "Reading Excel").InvalidFileException
    broken = (zipfile.BadZipFile, KeyError, ValueError, OSError, ParseError, EOFError, invalid)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and extensions, which are not read
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        try:
            sheets = {sheet.title: _sheet(sheet) for sheet in book.worksheets}
        finally:
            book.close()
    except broken as error:
        raise CorpusError(f"{name} is not a readable .xlsx workbook: {_short(error)}") from error
    if not sheets:
        raise CorpusError(f"{name} has no worksheet")
    return sheets


def _sheet(sheet: Any) -> tuple[list[str], list[tuple[int, list[Any]]]]:
    sheet.reset_dimensions()
    lines: Iterator[tuple[Any, ...]] = sheet.iter_rows(values_only=True)
    header = ["" if cell is None else str(cell).strip() for cell in next(lines, ())]
    rows = []
    for number, cells in enumerate(lines, start=2):
        if any(cell is not None for cell in cells):
            padded = [*cells, *[None] * (len(header) - len(cells))]
            rows.append((number, padded[: len(header)]))
    return header, rows


def _check_header(header: list[str], name: str) -> None:
    names = [column for column in header if column]
    if twice := sorted({column for column in names if names.count(column) > 1}):
        raise CorpusError(f"{name} has more than one column '{twice[0]}': rename one of them")


def _short(error: BaseException) -> str:
    """First line of an exception's text: messages to the user are one line."""
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__


READERS: dict[str, Callable[[bytes, str], Table]] = {
    ".jsonl": read_json,
    ".json": read_json,
    ".ndjson": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
    ".xlsx": read_excel,
}


def find_files(folder: Path) -> list[Path]:
    """Data files of a folder: those named after a split where there are any, else all of them.

    Raises:
        CorpusError: the folder holds no data file, or two files for one split.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in READERS)
    named: dict[str, Path] = {}
    for path in files:
        split = split_name(path.stem)
        if split in named:
            raise CorpusError(f"{folder} has two files for {split}, {named[split].name} and {path.name}: keep one")
        if split:
            named[split] = path
    if not files:
        below = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())[:5])
        hint = f"one of its folders ({below}) may be meant" if below else "give a file, or a folder with some"
        raise CorpusError(f"{folder} holds no corpus that is known and no {', '.join(READERS)} file: {hint}")
    return list(named.values()) or files
