"""Tables of separated values: what separates the cells, whether they are quoted, and where the header stands.

A writer that quotes puts quotation marks around every cell that holds one. So a mark inside a cell that does not begin
with one, or marks around some cells of a column that need none, tell a file that is never quoted.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .file_bytes import decode
from .limits import Limits
from .schema import BadRow, CorpusError
from .table import (
    HEADER_WITHIN,
    Sides,
    Table,
    check_header,
    has_sides,
    header_place,
    say_header,
    say_repeated,
)

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_LOOKED_AT = 50
"""Records by which the separator is guessed."""


@dataclass(frozen=True)
class _Row:
    """The cells of a record, and the lines on which it begins and ends."""

    first: int
    last: int
    cells: list[str]


def read_csv(content: bytes, name: str, sides: Sides = (None, None), usual: str = ",") -> list[Table]:
    """Separated values with a header; the row number of a record is the line on which it ends."""
    table, limits = Table(name), Limits(name, len(content))
    text = decode(content, name, table.guesses)
    lines = list(io.StringIO(text, newline=""))
    separator, skip = _told(lines)
    if not separator:
        separator = guess_separator(lines, usual, sides)
        if separator != usual:
            table.guesses.append(f"read as separated by {SEPARATORS[separator]}")
    rows = _rows(lines[skip:], separator, table, sides, skip)
    place = header_place([row.cells for row in rows[:HEADER_WITHIN]], sides)
    if not rows:
        return [table]
    # Names are cells like others; only a header that was looked for is known with white space around it.
    header = rows[place].cells
    if not has_sides([cell for cell in header if cell == cell.strip()], sides) and has_sides(header, sides):
        header = [cell.strip() for cell in header]
    check_header(header, limits)
    limits.check_rows(len(rows), len(header))
    table.columns = list(header)
    say_header(table, place, rows[place].last, "line")
    repeated = []
    for row in rows[place + 1 :]:
        cells = row.cells
        if len(cells) > len(header) and not any(cells[len(header) :]):
            cells = cells[: len(header)]  # spreadsheets leave separators at the end of a line
        if len(cells) != len(header):
            table.add(row.last, BadRow(f"{len(cells)} cells under {len(header)} columns{_joined(row)}"))
        elif cells == header:
            repeated.append(row.last)
        elif row.last > row.first and _swallows(lines, row, separator, len(header)):
            table.add(
                row.last,
                BadRow(f"a quotation mark makes one row of lines {row.first} to {row.last}, each of which is a row"),
            )
        else:
            table.records.append((row.last, dict(zip(header, cells, strict=True))))
    say_repeated(table, repeated, "line")
    return [table]


def read_tsv(content: bytes, name: str, sides: Sides = (None, None)) -> list[Table]:
    """Tab-separated values with a header, quoted as in CSV or never."""
    return read_csv(content, name, sides, usual="\t")


def header_of(head: str, usual: str) -> list[str]:
    """The columns of a file, from its beginning alone."""
    lines = list(io.StringIO(head, newline=""))
    separator, skip = _told(lines)
    separator = separator or guess_separator(lines, usual, (None, None))
    rows = list(_loosely(lines[skip:], separator, HEADER_WITHIN))
    return rows[header_place(rows, (None, None))] if rows else []


def guess_separator(lines: Sequence[str], usual: str, sides: Sides) -> str:
    """The separator: the one that gives a header, else the usual one unless it gives one column and another gives
    several.
    """
    heads = {
        separator: list(_loosely(lines, separator, _LOOKED_AT)) for separator in dict.fromkeys((usual, *SEPARATORS))
    }
    for separator, rows in heads.items():
        if any(has_sides(row, sides) for row in rows[:HEADER_WITHIN]):
            return separator
    if any(len(row) > 1 for row in heads[usual][:1]):
        return usual
    even = [
        s
        for s, rows in heads.items()
        if rows and len(rows[0]) > 1 and len({len(row) for row in rows[:-1]} | {len(rows[0])}) == 1
    ]
    return max(even, key=lambda separator: len(heads[separator][0]), default=usual)


def _told(lines: Sequence[str]) -> tuple[str, int]:
    """The separator that a line "sep=;" tells, as spreadsheets write it, and how many lines that takes."""
    found = re.fullmatch(r"sep=([,;\t|])", lines[0].rstrip("\r\n")) if lines else None
    return (found.group(1), 1) if found else ("", 0)


def _loosely(lines: Sequence[str], separator: str, count: int) -> Iterator[list[str]]:
    """The first records, without a complaint about what they hold."""
    try:
        with _long_cells():
            for row in csv.reader(lines, delimiter=separator):
                if row:
                    yield row
                    count -= 1
                if not count:
                    return
    except csv.Error:
        return


@contextmanager
def _long_cells() -> Iterator[None]:
    """Cells of any length: the limit of the csv module stands far below the length of a document."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _rows(lines: list[str], separator: str, table: Table, sides: Sides, skipped: int) -> list[_Row]:
    """Every record, quoted as in CSV, or line by line with the marks as text where tabs separate and nothing is
    quoted.
    """
    plain = [
        _Row(n, n, line.split(separator))
        for n, text in enumerate(lines, start=skipped + 1)
        if (line := text.rstrip("\r\n"))
    ]
    place = header_place([row.cells for row in plain[:HEADER_WITHIN]], sides)
    width = len(plain[place].cells) if plain else 0
    # Commas stand in texts, so values that they separate are always quoted by somebody.
    even = separator == "\t" and width > 1 and all(len(row.cells) == width for row in plain[place:])
    rows: list[_Row] = []
    error: csv.Error | None = None
    reader = csv.reader(lines, delimiter=separator, strict=True)
    first = 1
    try:
        with _long_cells():
            for cells in reader:
                if cells:
                    rows.append(_Row(skipped + first, skipped + reader.line_num, cells))
                first = reader.line_num + 1
    except csv.Error as found:
        error = found
    if error is None and not (even and (_any_swallows(rows, plain) or _never_quoted(plain[place:]))):
        return rows
    if even:
        table.guesses.append("quotation marks are read as part of the texts, since the file does not quote its cells")
        return plain
    # A mark that is never closed swallows the rest of the file: no row after it can be trusted.
    raise CorpusError(
        f"{table.name} cannot be read as CSV near line {skipped + reader.line_num}: the row that begins in line "
        f"{skipped + first} has a quotation mark that is not closed or not doubled ({error})"
    )


def _any_swallows(rows: Sequence[_Row], plain: Sequence[_Row]) -> bool:
    """Whether marks join lines each of which is a row: asked where all lines are."""
    return len(rows) < len(plain)


def _never_quoted(rows: Sequence[_Row]) -> bool:
    """Whether the marks in lines that are all rows are text."""
    if any(cell.startswith('"') for cell in rows[0].cells):
        return False
    columns = list(zip(*(row.cells for row in rows[1:]), strict=True))
    for cells in columns:
        needless = [len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1] for cell in cells]
        if any('"' in cell and not cell.startswith('"') for cell in cells):
            return True
        if any(needless) and not all(cell.startswith('"') for cell in cells if cell):
            return True
    return False


def _swallows(lines: Sequence[str], row: _Row, separator: str, width: int) -> bool:
    """Whether each line of a record has as many cells as a row; a separator before a space belongs to a text."""
    if width < 2:
        return False
    return all(
        line.count(separator) == width - 1 and f"{separator} " not in line for line in lines[row.first - 1 : row.last]
    )


def _joined(row: _Row) -> str:
    return f" (a quotation mark makes one row of lines {row.first} to {row.last})" if row.last > row.first else ""
