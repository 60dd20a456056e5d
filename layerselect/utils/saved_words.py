"""Values in messages: whatever was saved or given is shown on one line, and cut where it is long."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SHOWN = 60  # characters of a value in a message
_SHOWN_DIGITS = 20
_SHOWN_OPTION = 100
SURROGATE = re.compile("[\ud800-\udfff]")


def is_plain_tensor(value: Any) -> bool:
    """Whether it is an array of NumPy, or a tensor of torch whose numbers lie in memory one beside the other."""
    if type(value).__module__.partition(".")[0] == "numpy":
        return hasattr(value, "dtype") and hasattr(value, "shape") and value.dtype.kind in "biuf"
    layout = getattr(value, "layout", None)
    if layout is None or str(layout) != "torch.strided" or getattr(value, "is_nested", False):
        return False
    return value.device.type != "meta" and not value.is_quantized


def join(where: str, name: Any) -> str:
    """The path to the value under ``name``."""
    text = str(name) if isinstance(name, str) else repr(name)
    text = text if text.isidentifier() else shown(text)
    return f"{where}.{text}" if where else text


def shown(value: Any) -> str:
    """A value in a message: on one line, and never longer than a line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        # Python itself refuses to write numbers of thousands of digits.
        digits = value.bit_length() * 3 // 10
        return str(value) if digits < _SHOWN_DIGITS else f"a number of some {digits} digits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        cut = value if len(value) <= _SHOWN else value[:_SHOWN] + "…"
        return ascii(cut) if SURROGATE.search(cut) else repr(cut)
    if isinstance(value, Mapping):
        return "an object" if value else "{}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "[]"
    if getattr(value, "is_nested", False):  # whose shape cannot be asked for
        return f"a nested tensor of {str(value.dtype).removeprefix('torch.')}"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _shown_tensor(value)
    return f"a {type(value).__name__}"


def in_words(value: Any) -> str:
    """A value that somebody chose as an option, on one line and cut where it is long."""
    try:
        text = " ".join(str(value).split())
    except (ValueError, RecursionError):  # numbers of thousands of digits; lists in themselves
        return shown(value)
    return text if len(text) <= _SHOWN_OPTION else text[:_SHOWN_OPTION] + "…"


def _shown_tensor(value: Any) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    layout = str(getattr(value, "layout", "torch.strided")).removeprefix("torch.")
    kind = "" if layout == "strided" else f"{layout.lstrip('_')} "
    place = (
        " without numbers (on the meta device)" if getattr(getattr(value, "device", None), "type", "") == "meta" else ""
    )
    return f"a {kind}tensor of {dtype} of shape {list(value.shape)}{place}"
