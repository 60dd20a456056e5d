"""Revisions without labels, from a file or from standard input: what `predict` reads."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, BinaryIO

from . import limits
from .cells import column_of
from .file_bytes import check_type, decode, local_path
from .generic import check_columns
from .json_table import read_json
from .schema import BadRow, CorpusError, Defect, pair_of, text_of
from .table import USUAL_SIDES, Sides, Table, short
from .tables import read_file
from .text_table import read_csv

log = logging.getLogger(__name__)


def read_revisions(
    source: str | Path,
    *,
    before: str | None = None,
    after: str | None = None,
    strict: bool = False,
    defects: list[Defect] | None = None,
    stdin: BinaryIO | None = None,
) -> list[dict[str, Any]]:
    """Read revisions that have no labels.

    Args:
        source: a JSON lines, JSON, CSV, TSV, Parquet or Excel file; "-" reads JSON (lines) or CSV from
            standard input and tells them apart by the first character.
        before, after: column names; without them "before" and "after", or IteraTeR's names.
        strict: raise on a malformed row instead of skipping it with a warning.
        defects: malformed rows are appended to this list.
        stdin: read instead of standard input for "-".

    Returns:
        One dict a row, in order: `id` (the column of that name, or the row number), `before`, `after`,
        `before_context`, `after_context` ("" where there is no such column).

    Raises:
        CorpusError: the file cannot be read, a column is missing, or no row is usable.
    """
    sides = before, after
    tables = _standard_input(stdin, sides) if str(source) == "-" else read_file(local_path(source), sides)
    rows, bad = [], []
    for table in tables:
        names = _columns(table, before, after)
        for guess in table.guesses:
            log.warning("%s: %s", table.name, guess)
        # Rows of several sheets have the same numbers.
        prefix = f"{table.name}-" if len(tables) > 1 else ""
        _read(table, names, prefix, rows, bad)
    if bad and (strict or not rows):
        raise CorpusError(f"{tables[0].name} has {len(bad)} malformed row(s), the first is {bad[0]}")
    if bad:
        log.warning("%d malformed row(s) skipped; the first is %s", len(bad), bad[0])
    if defects is not None:
        defects += bad
    return rows


def _read(table: Table, names: tuple[str, str], prefix: str, rows: list[dict[str, Any]], bad: list[Defect]) -> None:
    ids = column_of("id", (record.get("id") for _, record in table.records if isinstance(record, dict)))
    for number, record in table.records:
        try:
            if isinstance(record, BadRow):
                raise record
            first, second = pair_of(record, *names)
            given = ids.read(record.get("id"))
            rows.append(
                {
                    "id": _key(given[0]) if given else f"{prefix}{number}",
                    "before": first,
                    "after": second,
                    "before_context": _optional(record, "before_context"),
                    "after_context": _optional(record, "after_context"),
                }
            )
        except BadRow as error:
            bad.append(Defect(table.name, number, str(error)))


def _key(value: Any) -> str:
    """An id: a text as it is, anything else as Python writes it."""
    return text_of({"id": value if isinstance(value, str) else short(str(value))}, "id")


def _standard_input(stdin: BinaryIO | None, sides: Sides) -> list[Table]:
    content = (stdin or sys.stdin.buffer).read(limits.FILE)
    name = "standard input"
    if not content.strip():
        raise CorpusError(f"{name} is empty: pipe JSON lines or CSV into it")
    check_type(content, "", name)
    first = decode(content, name).lstrip()[:1]
    tables = read_json(content, name, sides) if first in ("{", "[") else read_csv(content, name, sides)
    if not any(table.records for table in tables):
        raise CorpusError(f"{name} holds no rows: pipe JSON lines or CSV into it")
    return tables


def _columns(table: Table, before: str | None, after: str | None) -> tuple[str, str]:
    usual = next((pair for pair in USUAL_SIDES if set(pair) <= set(table.columns)), USUAL_SIDES[0])
    names = before or usual[0], after or usual[1]
    check_columns(table, names)
    return names


def _optional(record: dict[str, Any], column: str) -> str:
    return text_of(record, column) if column in record else ""
