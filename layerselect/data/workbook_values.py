"""The values in a worksheet's XML: places, numbers, dates and texts."""

from __future__ import annotations

import datetime
import re
from typing import Any
from xml.etree.ElementTree import Element

from .limits import COLUMNS, SHEET_ROWS

_ESCAPED = re.compile(r"_x(00[01][0-9A-Fa-f]|005[Ff])_")
_DATES = {*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)}
"""Numbers of the built-in formats of dates and times."""


def row_number(text: str | None, last: int) -> int:
    """The number of a row: ``text`` as the file gives it, or else the one after ``last``."""
    if text is None:
        number = last + 1
    elif text.isascii() and text.isdigit() and len(text) < 20:
        number = int(text)
    else:
        raise ValueError(f"a row has the number '{text[:20]}'")
    if number > SHEET_ROWS:
        raise ValueError(f"a row says that it is row {number}, and a sheet has at most {SHEET_ROWS:,}")
    return number


def column_number(letters: str) -> int:
    """The index from 0 of the column that a cell's place names: "A" is 0, "AA" is 26."""
    number = 0
    for letter in letters[:4]:
        if not "A" <= letter.upper() <= "Z":
            raise ValueError(f"a cell has the place '{letters[:20]}'")
        number = number * 26 + ord(letter.upper()) - 64
    if not 1 <= number <= COLUMNS:
        raise ValueError(f"a cell stands in column '{letters[:20]}', and a sheet has at most {COLUMNS:,}")
    return number - 1


def number_of(text: str) -> int | float | str:
    """The number that a cell holds; a text that is none stays as it is."""
    try:
        return int(text) if len(text) < 20 and "." not in text and "e" not in text.lower() else float(text)
    except ValueError:
        return text


def date_of(value: int | float, from_1904: bool) -> Any:
    """The date or time that a number of days means; a number out of range stays as it is."""
    try:
        start = datetime.datetime(1904, 1, 1) if from_1904 else datetime.datetime(1899, 12, 30)
        found = start + datetime.timedelta(seconds=round(value * 86_400))
    except (OverflowError, ValueError):
        return value
    return found.date() if found.time() == datetime.time() else found


def text_of(element: Element) -> str:
    """The text of a cell, of one piece or of several with fonts of their own; how it is pronounced is left out."""
    pieces = []
    for child in element:
        tag = tag_of(child)
        if tag == "t":
            pieces.append(child.text or "")
        elif tag == "r":
            pieces += [inner.text or "" for inner in child if tag_of(inner) == "t"]
    return unescaped("".join(pieces))


def unescaped(text: str) -> str:
    """Characters that XML cannot hold are written as _x0007_, and an underscore that would look so as _x005F_."""
    return _ESCAPED.sub(lambda found: chr(int(found.group(1), 16)), text) if "_x" in text else text


def date_styles(root: Element) -> list[bool]:
    """For each style of cells, whether it shows a date or a time."""
    own = {e.get("numFmtId"): _is_date(e.get("formatCode", "")) for e in root.iter() if tag_of(e) == "numFmt"}
    formats = next((e for e in root if tag_of(e) == "cellXfs"), None)
    found = []
    for style in formats if formats is not None else ():
        number = style.get("numFmtId", "0")
        found.append(own.get(number, number.isdecimal() and len(number) < 9 and int(number) in _DATES))
    return found


def _is_date(code: str) -> bool:
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]|\\.|_.', "", code).lower()
    return code.lower().startswith(("[h", "[m", "[s")) or (
        any(letter in bare for letter in "dmyhs") and "general" not in bare
    )


def is_set(text: str | None) -> bool:
    """Whether an attribute of XML says yes."""
    return text in ("1", "true")


def tag_of(element: Element) -> str:
    """The name of an element, without its namespace."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
