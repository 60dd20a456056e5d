"""Revisions without labels, from a file or from standard input: what `predict` reads."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, BinaryIO

from layerselect.data.file_bytes import local_path
from layerselect.data.generic import check_columns
from layerselect.data.json_table import read_json
from layerselect.data.schema import BadRow, CorpusError, Defect, pair_of, text_of
from layerselect.data.table import Sides, Table
from layerselect.data.tables import read_tables
from layerselect.data.text_table import read_csv

log = logging.getLogger(__name__)

# The usual names, then those of IteraTeR's sentences and documents and of ArgRevision.
_SIDES = (
    ("before", "after"),
    ("before_sent", "after_sent"),
    ("before_revision", "after_revision"),
    ("old_sentences", "new_sentences"),
)


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
    table = _standard_input(stdin) if str(source) == "-" else _table(source, (before, after))
    names = _columns(table, before, after)
    rows, bad = [], []
    for number, record in table.records:
        try:
            if isinstance(record, BadRow):
                raise record
            first, second = pair_of(record, *names)
            given = record.get("id")
            rows.append(
                {
                    "id": str(number) if given is None or given == "" else str(given),
                    "before": first,
                    "after": second,
                    "before_context": _optional(record, "before_context"),
                    "after_context": _optional(record, "after_context"),
                }
            )
        except BadRow as error:
            bad.append(Defect(table.name, number, str(error)))
    if bad and (strict or not rows):
        raise CorpusError(f"{table.name} has {len(bad)} malformed row(s), the first is {bad[0]}")
    if bad:
        log.warning("%d malformed row(s) skipped; the first is %s", len(bad), bad[0])
    if defects is not None:
        defects += bad
    return rows


def _table(source: str | Path, sides: Sides) -> Table:
    """All tables of a file as one: rows of a workbook's sheets are told apart by their numbers' order alone."""
    first, *others = [table for table in read_tables(local_path(source), sides) if table.records]
    for other in others:
        for number, record in other.records:
            first.add(number, record)
    return first


def _standard_input(stdin: BinaryIO | None) -> Table:
    content = (stdin or sys.stdin.buffer).read()
    name = "standard input"
    if not content.strip():
        raise CorpusError(f"{name} is empty: pipe JSON lines or CSV into it")
    first = content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    tables = read_json(content, name) if first in (b"{", b"[") else read_csv(content, name)
    table = tables[0]
    if not table.records:
        raise CorpusError(f"{name} holds no rows: pipe JSON lines or CSV into it")
    return table


def _columns(table: Table, before: str | None, after: str | None) -> tuple[str, str]:
    usual = next((pair for pair in _SIDES if set(pair) <= set(table.columns)), _SIDES[0])
    names = before or usual[0], after or usual[1]
    check_columns(table, names)
    return names


def _optional(record: dict[str, Any], column: str) -> str:
    return text_of(record, column) if column in record else ""
