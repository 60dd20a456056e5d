"""Revisions from any table: one column before, one after, one with labels, and a few optional ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from layerselect.data import label_cells
from layerselect.data.schema import BadRow, CorpusError, Defect, RawCorpus, Revision, fold, pair_of, text_of
from layerselect.data.splits import split_name
from layerselect.data.table import Record, Table

log = logging.getLogger(__name__)

LABEL_COLUMNS = ("intentions", "labels", "label", "intention")
"""Tried in this order where no label column is named."""


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; None takes the usual names.

    Attributes:
        before, after: the two sides of a revision (default "before", "after").
        label: a string, a list of strings, or several joined by `delimiter`.
        doc_id: the document of a row (default "doc_id" where there is such a column).
        delimiter: separates labels in one cell; None: a cell is one label.
    """

    before: str | None = None
    after: str | None = None
    label: str | None = None
    doc_id: str | None = None
    delimiter: str | None = None

    @property
    def named(self) -> bool:
        """The caller named a column, so the format of the table is the caller's own."""
        return any((self.before, self.after, self.label, self.doc_id, self.delimiter))


@dataclass
class _Found:
    """Names of the columns as they are in one table; "" where the optional one is not there."""

    before: str
    after: str
    label: str
    id: str = ""
    doc_id: str = ""
    split: str = ""
    context: list[str] = field(default_factory=list)


def read_revision_tables(tables: Sequence[Table], columns: Columns, name: str) -> RawCorpus:
    """Rows of tables whose columns are named by `columns` or have the usual names.

    Rows with the same `before` text count as one document where no column tells documents apart, so that
    a text never stands in two splits.

    Raises:
        CorpusError: a column is missing.
    """
    raw = RawCorpus(name)
    raw.splits_seen = [table.split for table in tables if table.split]
    by_text = False
    for table in tables:
        found = _find(table, columns)
        before = len(table.guesses)
        label_cells.settle(table, found.label)
        for guess in table.guesses[before:]:
            log.warning("%s: %s", table.name, guess)
        raw.notes += [f"{table.name}: {guess}" for guess in table.guesses]
        by_text |= not found.doc_id
        for number, record in table.records:
            try:
                if isinstance(record, BadRow):
                    raise record
                raw.rows.append(_revision(record, number, table, found, columns.delimiter))
            except BadRow as error:
                raw.defects.append(Defect(table.name, number, str(error)))
    if by_text:
        raw.notes.append("no column names the documents: rows with the same text before count as one document")
    return raw


def check_columns(table: Table, wanted: Sequence[str]) -> None:
    """Raise a `CorpusError` that lists the columns there are, if one of `wanted` is missing."""
    missing = [f"'{name}'" for name in wanted if name not in table.columns]
    if missing:
        there = ", ".join(f"'{name}'" for name in table.columns) or "none"
        raise CorpusError(f"{table.name} has no column {' and '.join(missing)}; its columns are {there}")


def _find(table: Table, columns: Columns) -> _Found:
    before, after = columns.before or "before", columns.after or "after"
    label = columns.label or next((name for name in LABEL_COLUMNS if name in table.columns), "label")
    wanted = [before, after, label, *([columns.doc_id] if columns.doc_id else [])]
    check_columns(table, wanted)

    def optional(name: str) -> str:
        return name if name in table.columns and name not in wanted else ""

    return _Found(
        before,
        after,
        label,
        id=optional("id"),
        doc_id=columns.doc_id or optional("doc_id"),
        split=optional("split"),
        context=[optional("before_context"), optional("after_context")],
    )


def _revision(record: Record, number: int, table: Table, found: _Found, delimiter: str | None) -> Revision:
    before, after = pair_of(record, found.before, found.after)
    around = [text_of(record, name) if name in record else "" for name in found.context]
    split = table.split
    if found.split and (word := _key(record, found.split)):
        # An unknown word is kept as it is: it is an error only where official splits are asked for.
        split = split_name(word) or word
    return Revision(
        id=(_key(record, found.id) if found.id else "") or f"{table.name}-{number}",
        doc_id=(_key(record, found.doc_id) if found.doc_id else "") or f"text:{fold(before) or fold(after)}",
        before=before,
        after=after,
        intentions=_labels(record, found.label, delimiter),
        split=split,
        before_context=around[0],
        after_context=around[1],
    )


def _labels(record: Record, column: str, delimiter: str | None) -> list[str]:
    """Labels of a cell, in order, each once."""
    value = record.get(column)
    cells = value if isinstance(value, list) else [value]
    labels: list[str] = []
    for cell in cells:
        if isinstance(cell, int) and not isinstance(cell, bool):
            cell = str(cell)  # class numbers are labels too
        elif cell is not None and not isinstance(cell, str):
            raise BadRow(f"the label in '{column}' is {type(cell).__name__}, not a string")
        text = text_of({column: cell}, column) if column in record else text_of(record, column)
        parts = text.split(delimiter) if delimiter and not isinstance(value, list) else [text]
        labels += [part.strip() for part in parts if part.strip()]
    if not labels:
        raise BadRow(f"the label in '{column}' is empty")
    return list(dict.fromkeys(labels))


def _key(record: Record, column: str) -> str:
    """A cell that names something (id, document, split): a string or a whole number; "" where empty."""
    value = record.get(column)
    if isinstance(value, float):  # as pandas writes whole numbers beside a missing one
        value = None if math.isnan(value) else int(value) if value.is_integer() else value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of({column: value}, column).strip()
