"""Revisions from any table: one column before, one after, one with labels, and a few optional ones."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .cells import MISSING_TEXTS, Column, column_of
from .schema import BadRow, CorpusError, Defect, RawCorpus, Revision, fold, pair_of, text_of
from .splits import split_name
from .table import Record, Sides, Table, short

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

    @property
    def sides(self) -> Sides:
        """The columns by which a header is known."""
        return self.before, self.after


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
    found = [_find(table, columns) for table in tables]
    read = _Cells(
        labels=column_of(found[0].label if found else "", _values(tables, found, "label"), lists=True),
        doc_ids=column_of("doc_id", _values(tables, found, "doc_id")),
        ids=column_of("id", _values(tables, found, "id")),
        delimiter=columns.delimiter,
    )
    for table, places in zip(tables, found, strict=True):
        for number, record in table.records:
            try:
                if isinstance(record, BadRow):
                    raise record
                raw.rows.append(_revision(record, number, table, places, read))
            except BadRow as error:
                raw.defects.append(Defect(table.name, number, str(error)))
        raw.guesses += [f"{table.name}: {guess}" for guess in table.guesses]
    for column in (read.labels, read.doc_ids, read.ids):
        raw.guesses += [f"{name}: {guess}" for guess in column.guesses]
    if read.missing_texts:
        words = ", ".join(f"'{word}'" for word in sorted(read.missing_texts))
        raw.guesses.append(f"{name}: {sum(read.missing_texts.values())} texts that are {words} are read as empty")
    if not all(places.doc_id for places in found):
        raw.notes.append("no column names the documents: rows with the same text before count as one document")
    return raw


@dataclass
class _Cells:
    """How cells are read, the same way in all tables of a corpus."""

    labels: Column
    doc_ids: Column
    ids: Column
    delimiter: str | None = None
    missing_texts: Counter[str] = field(default_factory=Counter)


def _values(tables: Sequence[Table], found: Sequence[_Found], what: str) -> Iterator[Any]:
    for table, places in zip(tables, found, strict=True):
        if column := getattr(places, what):
            yield from (record.get(column) for _, record in table.records if isinstance(record, dict))


def check_columns(table: Table, wanted: Sequence[str]) -> None:
    """Raise a `CorpusError` that lists the columns there are, if one of `wanted` is missing."""
    missing = [f"'{short(name)}'" for name in wanted if name not in table.columns]
    if missing:
        there = ", ".join(f"'{short(name)}'" for name in table.columns[:40]) or "none"
        there += f" and {len(table.columns) - 40:,} more" if len(table.columns) > 40 else ""
        named = f"s {', '.join(missing[:-1])} and {missing[-1]}" if missing[1:] else f" {missing[0]}"
        raise CorpusError(
            f"{table.name} has no column{named}; its columns are {there}: say which of them hold the "
            "texts and the intention (--before, --after, --label)"
        )


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


def _revision(record: Record, number: int, table: Table, found: _Found, read: _Cells) -> Revision:
    before, after = _pair(record, found, read)
    around = [text_of(record, name) if name in record else "" for name in found.context]
    split = table.split
    if found.split and (word := text_of(record, found.split).strip() if found.split in record else ""):
        # An unknown word is kept as it is: it is an error only where official splits are asked for.
        split = split_name(word) or word
    return Revision(
        id=(_key(record, found.id, read.ids) if found.id else "") or f"{table.name}-{number}",
        doc_id=(_key(record, found.doc_id, read.doc_ids) if found.doc_id else "")
        or f"text:{fold(before) or fold(after)}",
        before=before,
        after=after,
        intentions=_labels(record, found.label, read),
        split=split,
        before_context=around[0],
        after_context=around[1],
    )


def _pair(record: Record, found: _Found, read: _Cells) -> tuple[str, str]:
    sides = {}
    for name in (found.before, found.after):
        if name in record:
            value = record[name]
            if isinstance(value, str) and value in MISSING_TEXTS:
                read.missing_texts[value] += 1
                value = None
            sides[name] = value
    return pair_of(sides, found.before, found.after)


def _labels(record: Record, column: str, read: _Cells) -> list[str]:
    """Labels of a cell, in order, each once."""
    if column not in record:
        raise BadRow(f"the field '{column}' is missing")
    value = record[column]
    cells = read.labels.read(value)
    labels: list[str] = []
    for cell in cells:
        if not isinstance(cell, str):
            raise BadRow(f"the label in '{column}' is {type(cell).__name__}, not a string")
        text = text_of({column: cell}, column)
        parts = text.split(read.delimiter) if read.delimiter and not isinstance(value, list) else [text]
        labels += [part.strip() for part in parts if part.strip()]
    if not labels:
        raise BadRow(f"the label in '{column}' is empty")
    return list(dict.fromkeys(labels))


def _key(record: Record, column: str, read: Column) -> str:
    """A cell that names something (id, document): a text, a number or a date; "" where empty."""
    parts = read.read(record.get(column))
    if not parts:
        return ""
    value = parts[0].isoformat() if isinstance(parts[0], datetime.date) else parts[0]
    return text_of({column: value}, column).strip()
