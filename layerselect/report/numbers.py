"""How numbers are written on a page: one function for each kind, so that the same number looks the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..utils.sizes import show_bytes

#: Where there is no number.
NONE = "–"


def score(value: float | None, digits: int = 3) -> str:
    """A quality: a fixed number of digits behind the point, so that columns can be compared."""
    return NONE if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def share(value: float | None) -> str:
    """A share of 1 as a percentage. What is not quite nothing or not quite all does not become 0% or 100%."""
    if value is None or not math.isfinite(value):
        return NONE
    if 0 < value < 0.005:
        return "<1%"
    if 0.995 <= value < 1:
        return ">99%"
    return f"{value:.0%}"


def seconds(value: float | None) -> str:
    """A time, in seconds or in milliseconds."""
    if value is None or not math.isfinite(value):
        return NONE
    if value and abs(value) < 0.01:
        return f"{1000 * value:.3g} ms"
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f} s"


def long_time(value: float | None) -> str:
    """A time of a minute or more, given in seconds: minutes, hours with one digit behind the point, or days."""
    if value is None or not math.isfinite(value):
        return NONE
    minutes = value / 60
    if minutes < 90:
        return f"{max(1, round(minutes))} min"
    return f"{minutes / 60:.1f} h" if minutes < 72 * 60 else f"{minutes / (24 * 60):,.0f} days"


def amount(value: float | None) -> str:
    """A count, or a mean of counts: that has one digit behind the point, and none where it is large."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:,.1f}"


def measure(value: float | None) -> str:
    """A measured number of any size: four significant digits, zeros at the end too, so that columns can be compared."""
    if value is None or not math.isfinite(value):
        return NONE
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.4g}" if value else "0"


def plural(count: int, one: str, many: str | None = None) -> str:
    """``1 step``, ``2 steps``, ``1,000 steps``.

    Args:
        many: the word for several, where it is not ``one`` with an s.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def number(value: Any) -> str:
    """A number of which only its type is known: at most four significant digits, thousands apart. What is no number
    stays as it is.
    """
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return NONE
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(number, value)) or NONE
    if isinstance(value, dict):
        return ", ".join(f"{fact_name(key)} {fact(key, each)}" for key, each in value.items()) or NONE
    return str(value)


def fact(name: str, value: Any) -> str:
    """A number whose name says what it counts: ``seconds``, ``..._mb``, ``..._bytes``, ``...seed``."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return number(value)
    if "seconds" in name:
        return seconds(value)
    if name.endswith("_mb"):
        return f"{amount(value)} MB"
    if name.endswith("_bytes"):
        return show_bytes(round(value))
    if name.endswith("seed"):
        return str(value)
    if "parameters" in name and math.isfinite(value):
        return f"{round(value):,}"
    if name.startswith("layers_"):
        return amount(value)
    return number(value)


def fact_name(name: str) -> str:
    """The name of a fact in words, without the unit that stands beside its value."""
    return name.removesuffix("_mb").removesuffix("_bytes").replace("_", " ")


def bests(values: Iterable[float | None], digits: int = 3) -> list[bool]:
    """Which of them are the largest as they are written: several where they tie, none where nothing is known."""
    rounded = [None if value is None or not math.isfinite(value) else round(value, digits) for value in values]
    best = max((value for value in rounded if value is not None), default=None)
    return [value is not None and value == best for value in rounded]
