"""What cells mean that programs wrote in their own way: missing values, lists as text, whole numbers with ".0".

A column is looked at as a whole, over all tables of a corpus, since one cell does not tell: "1.0" is class 1 where all
classes are whole numbers, and "None" is a missing label where all classes are written small.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

MISSING = ("nan", "NaN", "NAN", "-nan", "<NA>", "NaT", "NULL", "null", "#N/A", "\\N")
"""What programs leave where nothing was, and nobody calls a class."""

DOUBTFUL = ("None", "NA", "N/A", "n/a")
"""The same, but classes may be called so."""

MISSING_TEXTS = ("nan", "NaN", "<NA>", "NaT", "NULL", "\\N")
"""What stands for a missing text of a revision: nothing that somebody could have written there."""

LONGEST_LIST = 10_000
"""Characters of a list written as text."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,300}(\.[0-9]{1,300})?")
_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
# One way to match only: nested choices would take time that grows with the power of the length.
_LIST = re.compile(rf"[\[({{]\s*{_ITEM}(?:\s*,\s*{_ITEM}|\s+{_ITEM})*\s*,?\s*[\])}}]", re.DOTALL)
_ITEMS = re.compile(_ITEM, re.DOTALL)


def is_nothing(value: Any) -> bool:
    """An empty cell: null, not a number, or no text."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


@dataclass
class Column:
    """How the cells of one column of names (labels, documents, ids) are read.

    Attributes:
        name: as the file calls it.
        guesses: one sentence for each thing that was guessed.
    """

    name: str
    guesses: list[str] = field(default_factory=list)
    _missing: frozenset[str] = frozenset()
    _numbers: bool = False
    _bare_lists: bool = False

    def read(self, value: Any) -> list[Any]:
        """The parts of a cell: one, or those of a list; none of a missing one."""
        return [self._plain(part) for part in self._parts(value) if not self._is_missing(part)]

    def _parts(self, value: Any) -> list[Any]:
        if isinstance(value, list | tuple | set | frozenset):
            return list(value)
        if isinstance(value, str) and (found := list_of(value, bare=self._bare_lists)) is not None:
            return found
        return [value]

    def _is_missing(self, value: Any) -> bool:
        return is_nothing(value) or (isinstance(value, str) and value.strip() in self._missing)

    def _plain(self, value: Any) -> Any:
        if isinstance(value, bool):
            return str(value)
        if isinstance(value, int | float | Decimal):
            return _number(value)
        if self._numbers and isinstance(value, str):
            return _number(float(value)) if "." in value else str(int(value))
        return value


def column_of(name: str, values: Iterable[Any], *, lists: bool = False) -> Column:
    """Look at all cells of a column of names.

    Args:
        name: as messages call it.
        values: every cell.
        lists: a text may be a list, as in a column of labels.
    """
    column = Column(name)
    cells = [value for value in values if not is_nothing(value)]
    if lists:
        _look_at_lists(column, cells)
        parts = [part for cell in cells for part in column._parts(cell) if not is_nothing(part)]
    else:
        parts = cells
    texts = Counter(part.strip() for part in parts if isinstance(part, str))
    missing = [word for word in MISSING if texts[word]]
    doubtful = [word for word in DOUBTFUL if texts[word]]
    others = [text for text in texts if text not in missing and text not in doubtful]
    # Where a class begins with a capital letter, "None" may be one like it; where none does, a program wrote it.
    small = bool(others or len(texts) < len(parts)) and not any(text[:1].isupper() for text in others)
    if doubtful and small:
        missing += doubtful
    elif doubtful:
        column.guesses.append(
            f"{_each(doubtful, texts)} in '{name}' {_is(doubtful)} read as a name, not as a missing one"
        )
    if missing:
        column.guesses.append(f"{_each(missing, texts)} in '{name}' {_is(missing)} counted as missing")
    column._missing = frozenset(missing)
    _look_at_numbers(column, [part for part in parts if not column._is_missing(part)])
    return column


def list_of(text: str, *, bare: bool = False) -> list[Any] | None:
    """The items of a list that was written as text, as Python, JSON or numpy write it; None if it is none.

    Args:
        text: a cell.
        bare: items may be without quotation marks ("[1, 2]", "[a, b]"), separated by commas.
    """
    text = text.strip()
    if len(text) > LONGEST_LIST or len(text) < 2 or text[0] not in "[({" or text[-1] not in "])}":
        return None
    if text == "[]":
        return []
    if _LIST.fullmatch(text):
        return [_unquoted(item) for item in _ITEMS.findall(text)]
    if bare and _is_bare_list(text):
        items = [item.strip() for item in text[1:-1].split(",")]
        return [_unquoted(item) if item[:1] in "'\"" and len(item) > 1 else item for item in items if item]
    return None


def _is_bare_list(text: str) -> bool:
    return (
        len(text) <= LONGEST_LIST
        and text[:1] == "["
        and text[-1:] == "]"
        and not any(char in text[1:-1] for char in "[]{}")
    )


def _unquoted(item: str) -> str:
    try:
        found = ast.literal_eval(item)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return item[1:-1]
    return found if isinstance(found, str) else item[1:-1]


def _look_at_lists(column: Column, cells: list[Any]) -> None:
    texts = [cell.strip() for cell in cells if isinstance(cell, str)]
    quoted = [text for text in texts if list_of(text) is not None]
    # A class may stand in brackets; where all cells do, and some hold several or a number, they are lists.
    bare = (
        [text for text in texts if text not in quoted[:1] and _is_bare_list(text)]
        if texts and texts[0][:1] == "["
        else []
    )
    column._bare_lists = (
        bool(texts)
        and all(map(_is_bare_list, texts))
        and any("," in text or _NUMBER.fullmatch(text[1:-1].strip()) for text in bare or texts)
    )
    found = texts if column._bare_lists else quoted
    if found:
        column.guesses.append(
            f"{len(found)} cells of '{column.name}' are lists written as text and are read as lists (the first is "
            f"{found[0][:60]!a})"
        )


def _look_at_numbers(column: Column, parts: list[Any]) -> None:
    """Numbers as names: "1.0" and 1.0 are 1, where every cell is a number and some cell is written so."""
    floats = [part for part in parts if isinstance(part, float | Decimal) or (isinstance(part, str) and "." in part)]
    if not floats or any(isinstance(part, bool) for part in parts):
        return
    if all(
        isinstance(part, int | float | Decimal) or (isinstance(part, str) and _NUMBER.fullmatch(part.strip()))
        for part in parts
    ):
        column._numbers = True
        if any(_number(float(part)) != str(part).strip() for part in floats):
            column.guesses.append(f"whole numbers in '{column.name}' are read without '.0'")


def _number(value: int | float | Decimal) -> str:
    """A number as a name: whole ones without a point, in every type of file alike."""
    try:
        if isinstance(value, int):
            return str(value)
        value = float(value)
    except (ValueError, OverflowError):
        return "a number of thousands of digits"
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _each(words: list[str], texts: Counter[str]) -> str:
    return " and ".join(f"'{word}' ({texts[word]} cells)" for word in words)


def _is(words: list[str]) -> str:
    return "is" if len(words) == 1 else "are"
