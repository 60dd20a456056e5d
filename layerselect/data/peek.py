"""What a file holds, from its head alone: formats are tried on every path, of whatever size.

Nothing here complains. A file that cannot be looked into has no fields; whoever reads it says what is wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import LayerSelectError
from .arrow_tables import parquet_columns, saved_columns, saved_splits
from .file_bytes import decode, read_bytes, shown
from .tables import find_files
from .text_table import header_of
from .workbook import BROKEN, first_header

HEAD = 1 << 16
"""Bytes that `head` reads."""


def head(path: Path) -> str:
    """The first `HEAD` bytes of a file as text; "" for a folder or a file that cannot be read."""
    content = _start(path, HEAD)
    # What was cut may end within a character.
    for end in range(len(content), max(len(content) - 4, 0), -1):
        with contextlib.suppress(LayerSelectError):
            return decode(content[:end], "")
    return content.decode("utf-8-sig", errors="replace")


def fields(path: Path) -> list[str]:
    """The columns of a table, or the fields of its first JSON object; of a folder, those of its first data file."""
    try:
        if path.is_dir() and (saved := saved_splits(path)):
            return saved_columns(saved)
        file = find_files(path)[0] if path.is_dir() else path
        suffix = file.suffix.lower()
        if suffix in (".csv", ".tsv"):
            return header_of(head(file), "," if suffix == ".csv" else "\t")
        if suffix in (".xlsx", ".xlsm"):
            return first_header(read_bytes(file), shown(file))
        if suffix == ".parquet":
            return parquet_columns(read_bytes(file))
        if suffix in (".json", ".jsonl", ".ndjson"):
            return _object_fields(file)
    except (LayerSelectError, OSError, UnicodeError, *BROKEN):
        pass
    return []


def _start(path: Path, size: int) -> bytes:
    try:
        # A pipe would be waited for, and what is read from it is lost for whoever reads it next.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return b""
        file: BinaryIO
        with path.open("rb") as file:
            return file.read(size)
    except (OSError, ValueError):
        return b""


_LONGEST = 4 << 20
"""Bytes in which the first object must end."""


def _object_fields(file: Path) -> list[str]:
    text = decode(_cut(_start(file, _LONGEST)), "")
    if text.lstrip().startswith("["):
        return _first_of_list(text)
    for line in text.split("\n", 20)[:20]:
        with contextlib.suppress(ValueError, RecursionError):  # a malformed line says nothing
            if isinstance(record := json.loads(line), dict):
                return list(record)
    return []


def _first_of_list(text: str) -> list[str]:
    """The fields of the first object of a JSON list."""
    place = text.find("{")
    if place < 0 or text[:place].strip() != "[":
        return []
    with contextlib.suppress(ValueError, RecursionError):
        record, _ = json.JSONDecoder().raw_decode(text, place)
        return list(record)
    return []


def _cut(content: bytes) -> bytes:
    """`content` up to its last whole line, if it was cut."""
    return content[: content.rfind(b"\n") + 1] or content if len(content) == _LONGEST else content
