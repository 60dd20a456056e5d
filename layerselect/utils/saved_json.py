"""The one way to read a JSON text: strictly, and with limits on what it may hold.

Refused are bytes that are not UTF-8, values that are nested too deep, integers of thousands of digits, ``NaN`` and
infinities, names that an object holds twice, and halves of characters.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from .saved_schema import Mismatch
from .saved_words import shown

#: How deep objects and lists may be nested.
MOST_DEPTH = 100
#: How many digits an integer may have.
MOST_DIGITS = 40

_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(content: bytes | str, *, constants: bool = False) -> Any:
    """The value that a JSON text holds.

    Raises:
        Mismatch: the text is no JSON, or holds a value that this package never writes.
    """
    if isinstance(content, bytes):
        try:
            content = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Mismatch("", f"byte {error.start} is not of a text in UTF-8") from error
    try:
        value = json.loads(
            content,
            parse_int=_whole,
            parse_float=_number,
            parse_constant=float if constants else _no_number,
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        raise Mismatch("", f"it is no JSON: {error.msg}, line {error.lineno} column {error.colno}") from error
    except RecursionError as error:
        raise Mismatch("", f"its values are nested more than {MOST_DEPTH} deep") from error
    _check_nesting(value, halves=_HALF.search(content) is not None)
    return value


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise Mismatch("", f"it holds a number of {len(text)} digits ({text[:8]}…)")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Mismatch("", f"it holds {text[:20]}, which no number of the machine can hold")
    return value


def _no_number(text: str) -> float:
    raise Mismatch("", f"it holds {text}, which is no number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise Mismatch("", f"the name {shown(twice)} stands twice in an object")
    return found


def _check_nesting(value: Any, *, halves: bool) -> None:
    """Checks the depth of a value, and its texts if there may be halves of characters. Works without recursion."""
    level, depth = [value], 0
    while level:
        if depth > MOST_DEPTH:
            raise Mismatch("", f"its values are nested more than {MOST_DEPTH} deep")
        below: list[Any] = []
        for inner in level:
            if isinstance(inner, dict):
                below.extend(inner.values())
                if halves:
                    below.extend(inner)
            elif isinstance(inner, list):
                below.extend(inner)
            elif halves and isinstance(inner, str) and not _is_writable(inner):
                raise Mismatch("", f"the text {shown(inner)} holds half of a character, which no file can hold")
        level, depth = below, depth + 1


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
