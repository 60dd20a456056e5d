"""Records out of JSON: one object a line, a list of objects, or one of the shapes that pandas writes."""

from __future__ import annotations

import json
from typing import Any

from .file_bytes import decode
from .limits import Limits
from .schema import BadRow, CorpusError
from .table import Record, Sides, Table, short

LONGEST_NUMBER = 300
"""Digits of a number."""


def read_json(content: bytes, name: str, sides: Sides = (None, None)) -> list[Table]:
    """Reads JSON lines, one JSON list of objects, or an object whose field "data" is such a list.

    A list is told from lines by its first character, so that `.json` files with lines in them work too.
    """
    guesses: list[str] = []
    text = decode(content, name, guesses)
    table = _json_list(text, name) if text.lstrip().startswith("[") else _json_lines(text, name)
    table.guesses[:0] = guesses
    limits = Limits(name, len(content))
    limits.check_columns(len(table.columns))
    limits.check_rows(len(table.records))
    return [table]


def _json_lines(text: str, name: str) -> Table:
    table = Table(name)
    # Only "\n" ends a line: str.splitlines would cut at characters that JSON strings may hold.
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_int=_whole)
        except (ValueError, RecursionError) as error:
            table.add(number, BadRow(f"not a JSON object ({short(error)})"))
            continue
        table.add(number, record if isinstance(record, dict) else BadRow("not a JSON object"))
    records = [record for _, record in table.records if isinstance(record, dict)]
    if not records:
        return _json_list(text, name)
    if len(table.records) == 1 and (isinstance(records[0].get("data"), list) or _columns_of(records[0]) is not None):
        return _json_list(text, name)
    return table


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits):,} digits, and at most {LONGEST_NUMBER} are read")
    return int(digits)


def _lines(text: str) -> list[str]:
    r"""Lines, which "\n" ends; where there is none of it but "\r" outside of strings, old writers used that."""
    if "\n" not in text and "\r" in text:
        return text.split("\r")
    return text.split("\n")


def _json_list(text: str, name: str) -> Table:
    try:
        found = json.loads(text, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{name} is neither JSON lines nor JSON: {short(error)}") from error
    if isinstance(found, dict):
        found = _columns_of(found) or _split_of(found) or found.get("data")
    if not isinstance(found, list):
        raise CorpusError(f"{name} holds JSON that is no list of objects: give one object a line, or a list")
    table = Table(name)
    for number, record in enumerate(found, start=1):
        table.add(number, record if isinstance(record, dict) else BadRow("not a JSON object"))
    return table


def _columns_of(found: Record) -> list[Record] | None:
    """The records of an object of columns, each an object of cells by their row (`DataFrame.to_json`)."""
    columns = list(found.values())
    if not columns or not all(isinstance(cells, dict) and cells for cells in columns):
        return None
    rows = list(columns[0])
    if any(list(cells) != rows for cells in columns):
        return None
    return [dict(zip(found, cells, strict=True)) for cells in zip(*(cells.values() for cells in columns), strict=True)]


def _split_of(found: Record) -> list[Any] | None:
    """The records of an object with a list of column names and a list of rows (`to_json(orient="split")`)."""
    columns, rows = found.get("columns"), found.get("data")
    if (
        not isinstance(columns, list)
        or not isinstance(rows, list)
        or not all(isinstance(name, str) for name in columns)
    ):
        return None
    if not all(isinstance(row, list) and len(row) == len(columns) for row in rows):
        return None
    return [dict(zip(columns, row, strict=True)) for row in rows]
