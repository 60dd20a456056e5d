"""Ways to break what was right: bytes, texts and JSON values, for the parts to draw from."""

from __future__ import annotations

import copy
import random
from typing import Any

ODD_TEXTS = (
    "", " ", "\0", "nan", "NaN", "None", "null", "NULL", "<NA>", "true", "1.0", "1e999", "-1", "\u00b2", "\u0663",
    "\ud800", "\ufeff", "\u2028", "\x85", "\r", "\r\n", "\n", '"', "'", "\\", "[", "{", "[]", "['a', 'b']", "=1+1",
    "a" * 70_000, "\u0301" * 50, "9" * 5_000, "[/b]", "%s{}", "../..", "~nobody", "d\u0131", "\U0001f600",
)  # fmt: skip
ODD_VALUES = (
    None, True, False, 0, -1, 1.0, 0.5, float("nan"), float("inf"), 1e300, 2**63, 10**400, [], {}, [None], [[]], ["a"],
    {"a": 1}, [1, "a", None], *ODD_TEXTS,
)  # fmt: skip


def break_bytes(content: bytes, rng: random.Random) -> bytes:
    """`content` with some bytes flipped, cut out, doubled, moved or replaced."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place = rng.randrange(len(data) + 1)
        length = min(rng.choice((1, 1, 2, 8, 64, 1024)), len(data) - place)
        match rng.randrange(7):
            case 0:
                for index in range(place, place + length):
                    data[index] ^= 1 << rng.randrange(8)
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = data[place : place + length] * rng.choice((1, 1, 50))
            case 3:
                del data[place:]
            case 4:
                data[place:place] = rng.randbytes(max(1, length))
            case 5:
                data[place : place + length] = b"\0" * length
            case 6:
                data[place : place + length] = (
                    rng.choice((b"\xff", b"\xfe\xff", b"\xc3", b"\n", b'"', b"\xed\xa0\x80")) * length
                )
    return bytes(data)


def break_text(text: str, rng: random.Random) -> str:
    """`text` with an odd text in some place of it, or in its whole place."""
    odd = rng.choice(ODD_TEXTS)
    place = rng.randrange(len(text) + 1)
    return odd if rng.random() < 0.3 else text[:place] + odd + text[place:]


def break_value(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with one value somewhere in it replaced, removed, doubled or nested deep."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []
    _collect(value, places)
    if not places or rng.random() < 0.05:
        return rng.choice(ODD_VALUES)
    holder, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del holder[key]
        case 1:
            holder[key] = [copy.deepcopy(holder[key])]
        case 2:
            for _ in range(rng.choice((3, 500))):
                holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
        case 3 if isinstance(holder, list):
            holder *= rng.choice((2, 100))
        case _:
            holder[key] = rng.choice(ODD_VALUES)
    return value


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        places.append((value, key))
        _collect(inner, places)
