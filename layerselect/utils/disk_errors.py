"""How to tell what is wrong with a disk: libraries that are not written in Python say it in words of their own."""

from __future__ import annotations

import errno
import os
import re

_FULL = (errno.ENOSPC, errno.EDQUOT)
#: What libraries say of a full disk without its number.
_FULL_TEXTS = (
    "No space left on device",
    "Disk quota exceeded",
    "PytorchStreamWriter failed writing",
    "iostream error",
    "inline_container.cc",
)
#: How Rust (safetensors, tokenizers) ends its sentences.
_NUMBER = re.compile(r"\(os error (\d+)\)")


def of_a_disk(error: Exception) -> str | None:
    """What to say of a disk that takes no more; ``None``: the error says nothing of that."""
    number, text, where = _number(error), str(error), getattr(error, "filename", None)
    place = f" ({where!r})" if where else ""
    if number == errno.EFBIG:
        return f"a file{place} may not become as long as it would: {os.strerror(number)}; raise the limit (ulimit -f)"
    if number in _FULL or any(words in text for words in _FULL_TEXTS):
        return f"the disk is full{place}: No space left on device; make room"
    return None


def of_a_file(error: Exception) -> str | None:
    """What to say of a file that cannot be read or written; ``None``: the error says nothing of that."""
    if isinstance(error, OSError):
        where = f"{error.filename!r}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    number = _number(error)
    return None if number is None else f"a file cannot be read or written: {os.strerror(number)}"


def _number(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = _NUMBER.search(str(error))
    return int(found[1]) if found is not None else None
