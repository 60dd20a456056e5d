"""Worksheets of an Excel workbook (.xlsx) as tables: which sheets are read, and which of their rows is the header."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from .limits import Limits
from .schema import CorpusError
from .splits import split_name
from .table import (
    HEADER_WITHIN,
    Sides,
    Table,
    check_header,
    has_sides,
    header_place,
    say_header,
    say_repeated,
    short,
)
from .workbook_xml import BROKEN, LONGEST_CELL, Book, Cells, Sheet, rows_of

_LOOKED_INTO = 8
"""Sheets whose header is looked at to tell what corpus a workbook holds."""

_LOOKED_AT = 100_000
"""Elements of XML that are read for it."""


Sheets = dict[str, tuple[list[str], list[tuple[int, list[Any]]]]]


def read_workbook(content: bytes, name: str) -> Sheets:
    """Every worksheet: its name -> (header, [(row number, cells as many as the header's)]); the header is row 1.

    Raises:
        CorpusError: not an .xlsx workbook, or one without a sheet.
    """
    found: Sheets = {}
    limits = Limits(name, len(content))
    for sheet in read_sheets(content, limits):
        first = sheet.rows[0][1] if sheet.rows and sheet.rows[0][0] == 1 else {}
        header = _names(first)
        limits.check_rows(len(sheet.rows), max(1, len(header)))
        rows = sheet.rows[1:] if first else sheet.rows
        found[sheet.title] = (
            header,
            [(number, [cells.get(column) for column in range(len(header))]) for number, cells in rows],
        )
    return found


def read_excel(content: bytes, name: str, sides: Sides = (None, None)) -> list[Table]:
    """The worksheets with the columns that are looked for; row numbers are those of the sheet.

    Where some of them are named after splits, those alone are read, as of files in a folder. What is passed over is
    said. Without such a sheet the first one is read, whose columns are then complained of.
    """
    limits = Limits(name, len(content))
    sheets = read_sheets(content, limits)
    fit = [sheet for sheet in sheets if not sheet.hidden and has_sides_within(sheet, sides)]
    splits = [sheet for sheet in fit if split_name(sheet.title)]
    chosen = splits or fit or [next((sheet for sheet in sheets if sheet.rows), sheets[0])]
    named: dict[str, str] = {}
    for sheet in splits:
        split = split_name(sheet.title) or ""
        if split in named:
            raise CorpusError(f"{name} has two sheets for {split}, '{named[split]}' and '{sheet.title}': keep one")
        named[split] = sheet.title
    tables = [
        _table(sheet, limits, sides, alone=len(sheets) == 1 or (len(fit) == 1 and not splits)) for sheet in chosen
    ]
    passed = [sheet for sheet in sheets if sheet not in chosen and sheet.rows]
    if len(chosen) > 1:
        tables[0].guesses.append(f"{len(chosen)} sheets are read: {_titles(chosen)}")
    if passed:
        tables[0].guesses.append(f"sheets that are not read: {_titles(passed)} ({_why(passed, fit)})")
    return tables


def has_sides_within(sheet: Sheet, sides: Sides) -> bool:
    """Whether one of the first rows of a sheet names the columns of texts before and after."""
    return any(has_sides(_names(cells), sides) for _, cells in sheet.rows[:HEADER_WITHIN])


def first_header(content: bytes, name: str) -> list[str]:
    """The columns of the first sheet that has the usual ones, or else of the first sheet with rows."""
    book = Book(content, Limits(name, len(content)))
    book.left = min(book.left, _LOOKED_AT)
    found: list[list[str]] = []
    for title, hidden, part in book.parts[:_LOOKED_INTO]:
        rows = [cells for _, cells in itertools.islice(rows_of(book, part, Sheet(title, hidden, [])), HEADER_WITHIN)]
        names = [_names(cells) for cells in rows]
        if names:
            found.append([column for column in names[header_place(names, (None, None))] if column])
        if names and any(has_sides(row, (None, None)) for row in names):
            return found[-1]
    return found[0] if found else []


def read_sheets(content: bytes, limits: Limits) -> list[Sheet]:
    """Reads every worksheet.

    Raises:
        CorpusError: not a workbook, a broken one, one without a sheet, or one beyond the limits.
    """
    try:
        book = Book(content, limits)
        sheets = []
        count = 0
        for title, hidden, part in book.parts:
            sheet = Sheet(title, hidden, [])
            for row in rows_of(book, part, sheet):
                sheet.rows.append(row)
                count += 1
                if count % 4096 == 0:
                    limits.check_rows(count)
            limits.check_rows(count)
            sheets.append(sheet)
    except BROKEN as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{limits.name} is not a readable .xlsx workbook: {short(error)}") from error
    if not sheets:
        raise CorpusError(f"{limits.name} has no worksheet: save the table as a sheet, or as CSV")
    return sheets


def _table(sheet: Sheet, limits: Limits, sides: Sides, *, alone: bool) -> Table:
    name = limits.name if alone else f"{limits.name}[{sheet.title}]"
    table = Table(name, split="" if alone else split_name(sheet.title) or "")
    if alone:
        table.split = split_name(sheet.title) or ""
    if not sheet.rows:
        return table
    place = header_place([_names(cells) for _, cells in sheet.rows[:HEADER_WITHIN]], sides)
    number, header_cells = sheet.rows[place]
    header = {column: str(cell).strip() for column, cell in header_cells.items() if str(cell).strip()}
    names = list(header.values())
    check_header(names, limits)
    limits.check_rows(len(sheet.rows), max(1, len(names)))
    table.columns = names
    say_header(table, place, number, "row")
    repeated = []
    for number, cells in sheet.rows[place + 1 :]:
        record = {name: cells.get(column) for column, name in header.items()}
        if len(names) > 1 and all(value == name for name, value in record.items()):
            repeated.append(number)
        else:
            table.records.append((number, record))
    say_repeated(table, repeated, "row")
    if sheet.formulas:
        table.guesses.append(f"{sheet.formulas} cells are formulas without a saved value and are read as their text")
    if sheet.full:
        table.guesses.append(
            f"{sheet.full} cells have {LONGEST_CELL:,} characters, the most of a cell, so their ends are probably lost"
        )
    return table


def _names(cells: Cells) -> list[str]:
    """A row as a header: names without white space around them, "" where a cell is empty."""
    if not cells:
        return []
    return [str(cells.get(column, "")).strip() for column in range(max(cells) + 1)]


def _titles(sheets: Sequence[Sheet]) -> str:
    names = ", ".join(f"'{short(sheet.title)}'" for sheet in sheets[:6])
    return names + (f" and {len(sheets) - 6} more" if len(sheets) > 6 else "")


def _why(passed: Sequence[Sheet], fit: Sequence[Sheet]) -> str:
    if not fit:
        return "give the names of the columns to choose another sheet"
    if any(sheet in fit for sheet in passed):
        return "others are named after splits"
    return "hidden" if all(sheet.hidden for sheet in passed) else "without the columns"
