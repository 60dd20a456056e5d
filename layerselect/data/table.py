"""`Table`: the records of a file, whatever its type, with what was guessed while it was read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .limits import Limits
from .schema import BadRow, CorpusError

Record = dict[str, Any]

Sides = tuple[str | None, str | None]
"""The columns that the caller names for the texts before and after; None takes the usual names."""

USUAL_SIDES = (
    ("before", "after"),
    ("before_sent", "after_sent"),
    ("before_revision", "after_revision"),
    ("old_sentences", "new_sentences"),
)
"""The usual names, then those of IteraTeR's sentences and documents and of ArgRevision."""

HEADER_WITHIN = 20
"""Rows at the top among which the header is looked for."""


@dataclass
class Table:
    """Records of one file, one sheet or one split.

    Attributes:
        name: file name as defects print it.
        columns: names of all fields that occur, in the order in which they are first seen.
        records: (row number, record), or (row number, reason) where there is none to read; the row
            number is the line of a text file and the row of a sheet, both from 1.
        split: the split that the file's or the sheet's name says, or "".
        guesses: one sentence for each thing that the file does not say and that was guessed, without the name.
    """

    name: str
    columns: list[str] = field(default_factory=list)
    records: list[tuple[int, Record | BadRow]] = field(default_factory=list)
    split: str = ""
    guesses: list[str] = field(default_factory=list)
    _known: set[str] = field(default_factory=set, repr=False)

    def add(self, row: int, record: Record | BadRow) -> None:
        self.records.append((row, record))
        if isinstance(record, dict):
            if len(self._known) != len(self.columns):
                self._known = set(self.columns)
            if new := [key for key in record if key not in self._known]:
                self._known.update(new)
                self.columns.extend(new)


def has_sides(names: list[Any], sides: Sides) -> bool:
    """Whether a row names the columns with the texts before and after, so that it is a header."""
    there = {name.strip() for name in names if isinstance(name, str)}
    if any(sides):
        return {sides[0] or "before", sides[1] or "after"} <= there
    return any(set(pair) <= there for pair in USUAL_SIDES)


def header_place(rows: list[list[Any]], sides: Sides) -> int:
    """Which of the first rows is the header: the one that names both sides, or the first where none does."""
    return next((place for place, row in enumerate(rows[:HEADER_WITHIN]) if has_sides(row, sides)), 0)


def check_header(header: list[str], limits: Limits) -> None:
    """Raise a `CorpusError` for too many columns, or two of one name."""
    limits.check_columns(len(header))
    seen: set[str] = set()
    for column in header:
        if column and column in seen:
            raise CorpusError(f"{limits.name} has more than one column '{short(column)}': rename one of them")
        seen.add(column)


def say_header(table: Table, place: int, number: int, what: str) -> None:
    """Note that rows stand above the header (`number` is the header's line or row)."""
    if place:
        table.guesses.append(f"{what} {number} is the header, and what stands above it was left out")


def say_repeated(table: Table, rows: list[int], what: str) -> None:
    """Note that rows repeat the header, as files do that were put together of several."""
    if rows:
        table.guesses.append(f"{len(rows)} rows that repeat the header were left out (the first is {what} {rows[0]})")


def short(error: BaseException | str) -> str:
    """First line of an exception's text: messages to the user are one line."""
    lines = str(error).strip().splitlines()
    text = lines[0][:160] if lines else type(error).__name__
    return text.encode("utf-8", "backslashreplace").decode()
