"""Amounts of memory, as people write and read them."""

from __future__ import annotations

import re

from ..errors import LayerSelectError
from .saved_words import shown

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]*)\s*")


def parse_bytes(size: int | str, name: str, *, least: int = 1) -> int:
    """``4000000000`` or ``"4GB"`` as bytes.

    Args:
        name: of the argument, for the message.
        least: the smallest size that makes sense.

    Raises:
        LayerSelectError: neither a whole number of at least ``least`` nor a number with a unit.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size >= least:
        return size
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None or found[2].upper() not in _UNITS or float(found[1]) * _UNITS[found[2].upper()] < least:
        raise LayerSelectError(
            f"{name}={shown(size)} is no size: give bytes or a number with a unit, such as 4GB or 512MiB"
        )
    return int(float(found[1]) * _UNITS[found[2].upper()])


def show_bytes(size: int) -> str:
    """Bytes for people: three digits and a unit."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"
