"""Tables of Excel workbooks: every sheet that holds the columns, and what the others are."""

from __future__ import annotations

import datetime
import io
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree.ElementTree import ParseError

from layerselect.data._extras import require
from layerselect.data.limits import Limits
from layerselect.data.schema import CorpusError
from layerselect.data.splits import split_name
from layerselect.data.table import (
    HEADER_WITHIN,
    Sides,
    Table,
    check_header,
    has_sides,
    header_place,
    say_header,
    say_repeated,
    short,
)  # fmt: skip

Sheets = dict[str, tuple[list[str], list[tuple[int, list[Any]]]]]


def read_excel(content: bytes, name: str, sides: Sides = (None, None)) -> list[Table]:
    """The worksheets that hold the columns; row numbers are those of the sheet.

    Where none holds them the first sheet is given, so that whoever looks for the columns says what there is.
    """
    limits = Limits(name, len(content))
    found: dict[str, list[tuple[int, list[Any]]]] = {}
    with _book(content, name, limits) as book:
        for sheet in book.worksheets:
            found[sheet.title] = _rows(sheet, limits)
    filled = {title: rows for title, rows in found.items() if rows}
    fit = [
        title for title, rows in filled.items() if any(has_sides(_names(row), sides) for _, row in rows[:HEADER_WITHIN])
    ]
    chosen = fit or list(filled)[:1]
    tables = []
    for title in chosen:
        table = _table(filled[title], f"{name}[{title}]" if len(chosen) > 1 else name, sides, limits)
        if len(fit) > 1:
            table.split = split_name(title) or ""
        tables.append(table)
    passed = [title for title in filled if title not in chosen]
    if tables and passed:
        what = "do not hold the columns" if fit else "were not looked at"
        tables[0].guesses.append(f"the sheets {', '.join(map(repr, passed))} {what} and were not read")
    if len(tables) > 1:
        named = ", ".join(
            f"{title!r}{f' ({table.split})' if table.split else ''}"
            for title, table in zip(chosen, tables, strict=True)
        )
        tables[0].guesses.append(f"read from {len(tables)} sheets: {named}")
    return tables or [Table(name)]


def sheet_columns(content: bytes, name: str, sides: Sides = (None, None)) -> list[str]:
    """The header of the sheet that would be read first, from the first rows alone; none where it cannot be read."""
    try:
        with _book(content, name, Limits(name, len(content))) as book:
            heads = [
                [_names(row) for row in sheet.iter_rows(max_row=HEADER_WITHIN, values_only=True)]
                for sheet in _opened(book)
            ]
    except CorpusError:
        return []
    rows = [row for head in heads for row in head]
    header = next((row for row in rows if has_sides(row, sides)), next(iter(rows), []))
    return [name for name in header if name]


def read_workbook(content: bytes, name: str) -> Sheets:
    """Every worksheet: its name -> (header, [(row number, cells as many as the header's)]). Empty rows are left out.

    Raises:
        CorpusError: not an .xlsx workbook, one without a sheet, or one that is too large.
    """
    limits = Limits(name, len(content))
    with _book(content, name, limits) as book:
        sheets = {}
        for sheet in book.worksheets:
            rows = _rows(sheet, limits)
            header = _names(rows[0][1]) if rows and rows[0][0] == 1 else []
            sheets[sheet.title] = (
                header,
                [(number, _fitted(cells, len(header))) for number, cells in rows if number > 1],
            )
    return sheets


def _table(rows: list[tuple[int, list[Any]]], name: str, sides: Sides, limits: Limits) -> Table:
    place = header_place([_names(row) for _, row in rows[:HEADER_WITHIN]], sides)
    number, cells = rows[place]
    header = _names(cells)
    check_header(header, limits)
    table = Table(name, columns=[column for column in header if column])
    say_header(table, place, number, "row")
    repeated = []
    for row, found in rows[place + 1 :]:
        values = _fitted(found, len(header))
        if _names(values) == header:
            repeated.append(row)
        else:
            table.records.append((row, {key: _value(value) for key, value in zip(header, values, strict=True) if key}))
    say_repeated(table, repeated, "row")
    return table


@contextmanager
def _book(content: bytes, name: str, limits: Limits) -> Iterator[Any]:
    """An open workbook. Sheets are read in read-only mode, which is several times faster."""
    openpyxl = require("openpyxl", "Reading Excel")
    # Broken parts raise whatever the code that meets them raises.
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            limits.check_unpacked(sum(part.file_size for part in archive.infolist()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and extensions, which are not read
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True, keep_links=False)
            try:
                if not book.worksheets:
                    raise CorpusError(f"{name} has no worksheet")
                yield book
            finally:
                book.close()
    except CorpusError:
        raise
    except (ParseError, EOFError, Exception) as error:
        raise CorpusError(f"{name} is not a readable .xlsx workbook: {short(error)}") from error


def _opened(book: Any) -> Iterator[Any]:
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # files of some writers claim to be one cell large
        yield sheet


def _rows(sheet: Any, limits: Limits) -> list[tuple[int, list[Any]]]:
    """The rows that hold something, with their numbers. Rows and cells that are skipped count, since they cost time."""
    sheet.reset_dimensions()
    rows: list[tuple[int, list[Any]]] = []
    cells = 0
    for number, found in enumerate(sheet.iter_rows(values_only=True), start=1):
        cells += max(1, len(found))
        limits.check_sheet(number, cells)
        if any(value is not None and value != "" for value in found):
            rows.append((number, list(found)))
    return rows


def _names(row: Any) -> list[str]:
    names = ["" if cell is None else str(cell).strip() for cell in row]
    while names and not names[-1]:
        names.pop()
    return names


def _fitted(cells: list[Any], width: int) -> list[Any]:
    return [*cells, *[None] * (width - len(cells))][:width]


def _value(value: Any) -> Any:
    """A cell's value as a table of text would hold it."""
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    return value
