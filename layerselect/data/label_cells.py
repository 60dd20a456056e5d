"""Label cells as programs leave them: lists written as text, numbers with ".0", and words for a label that is missing.

What a cell means is decided for the whole column: one look at all of its cells tells a list from a class whose name has brackets, and
a missing label from a class that is called "None".
"""

from __future__ import annotations

import math
import re
from typing import Any

from layerselect.data.table import Table

_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s'",\[\]]+)"""
_LIST = re.compile(rf"\s*[\[(]\s*(?:{_ITEM}(?:\s*,\s*|\s+))*(?:{_ITEM})?\s*,?\s*[\])]\s*", re.DOTALL)
_ITEMS = re.compile(_ITEM)
_LONGEST = 10_000
_WHOLE = re.compile(r"[+-]?\d{1,18}\.0+")
_NUMBER = re.compile(r"[+-]?\d{1,18}(\.0+)?")

#: What pandas, spreadsheets and databases write for a value that is not there, whatever else the column holds.
_NEVER = {"nan", "NaN", "NAN", "<NA>", "NaT", "#N/A", "NULL", "null"}
#: The same, where no other class is written so that this could be one of them.
_PERHAPS = {"None", "NA", "N/A", "n/a"}


def settle(table: Table, column: str) -> None:
    """Makes the label cells of a table what they were before they were written; says in ``table.guesses`` what was done."""
    records = [record for _, record in table.records if isinstance(record, dict) and column in record]
    _read_lists(table, column, records)
    _drop_missing(table, column, records)
    _whole_numbers(table, column, records)


def _read_lists(table: Table, column: str, records: list[dict[str, Any]]) -> None:
    texts = [record for record in records if isinstance(record[column], str) and record[column].strip()]
    written = [record for record in texts if len(record[column]) <= _LONGEST and _is_list(record[column])]
    # A class whose name stands in brackets is one class; where lists are written, no other cell is anything else.
    if not written or len(written) < len([record for record in texts if not _is_missing(record[column], set())]):
        return
    example = written[0][column].strip()
    for record in written:
        record[column] = [_unquoted(item) for item in _ITEMS.findall(record[column].strip()[1:-1])]
    table.guesses.append(f"the labels in '{column}' are lists written as text ({example[:60]}) and are read as lists")


def _is_list(text: str) -> bool:
    inside = text.strip()
    return (
        inside[:1] + inside[-1:] in ("[]", "()")
        and ("'" in inside or '"' in inside or inside[1:-1].strip() == "")
        and (_LIST.fullmatch(inside) is not None)
    )


def _unquoted(item: str) -> str:
    if item[:1] in "'\"":
        return re.sub(r"\\(.)", r"\1", item[1:-1])
    return item


def _drop_missing(table: Table, column: str, records: list[dict[str, Any]]) -> None:
    classes: set[str] = {text for record in records for text in _texts(record[column])}
    counts: dict[str, int] = {}
    for record in records:
        value = record[column]
        if isinstance(value, list):
            kept = [
                cell
                for cell in value
                if not (isinstance(cell, str) and _is_missing(cell, classes)) and not _is_nan(cell)
            ]
            if len(kept) < len(value):
                counts["in lists"] = counts.get("in lists", 0) + 1
                record[column] = kept
        elif _is_nan(value):
            record[column] = None
        elif isinstance(value, str) and _is_missing(value, classes):
            counts[value.strip()] = counts.get(value.strip(), 0) + 1
            record[column] = None
    for word, count in counts.items():
        what = "missing labels in lists" if word == "in lists" else f"cells '{word}' in '{column}'"
        table.guesses.append(f"{count} {what} count as a label that is missing")


def _is_missing(text: str, classes: set[str]) -> bool:
    word = text.strip()
    if word in _NEVER:
        return True
    # "None" beside "Clarity" and "Style" may be a class; beside "clarity" and "style" it is Python's.
    others = {name for name in classes if name not in _NEVER and name not in _PERHAPS}
    return word in _PERHAPS and not (others and all(name[:1].isupper() for name in others))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _texts(value: Any) -> list[str]:
    cells = value if isinstance(value, list) else [value]
    return [cell.strip() for cell in cells if isinstance(cell, str) and cell.strip()]


def _whole_numbers(table: Table, column: str, records: list[dict[str, Any]]) -> None:
    """1.0 is class 1 where all classes are whole numbers: a missing label makes pandas write all of them so."""
    cells = [
        cell
        for record in records
        for cell in (record[column] if isinstance(record[column], list) else [record[column]])
    ]
    there = [cell for cell in cells if cell is not None and cell != ""]
    if not there or not all(_is_whole(cell) for cell in there):
        return
    points = sum(
        isinstance(cell, float) or (isinstance(cell, str) and _WHOLE.fullmatch(cell.strip()) is not None)
        for cell in there
    )
    if not points:
        return
    for record in records:
        value = record[column]
        record[column] = [_whole(cell) for cell in value] if isinstance(value, list) else _whole(value)
    table.guesses.append(f"class numbers in '{column}' such as 1.0 are read as whole numbers")


def _is_whole(cell: Any) -> bool:
    if isinstance(cell, bool):
        return False
    if isinstance(cell, (int, float)):
        return math.isfinite(cell) and float(cell).is_integer()
    return isinstance(cell, str) and _NUMBER.fullmatch(cell.strip()) is not None


def _whole(cell: Any) -> Any:
    if cell is None or cell == "":
        return cell
    return str(int(float(cell))) if isinstance(cell, float) else str(cell).strip().partition(".")[0]
