"""What a file holds, from its head alone: formats are tried on every path, of whatever size.

Nothing here complains. A file that cannot be looked into has no fields; whoever reads it says what is wrong.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path

from layerselect.data.arrow_tables import parquet_columns, saved_columns, saved_splits
from layerselect.data.excel_tables import sheet_columns
from layerselect.data.file_bytes import decode, read_bytes
from layerselect.data.tables import find_files
from layerselect.data.text_table import header_of
from layerselect.errors import LayerSelectError

HEAD = 1 << 16
"""Bytes that `head` reads."""


def head(path: Path) -> str:
    """The first `HEAD` bytes of a file as text; "" for a folder or a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""


def fields(path: Path) -> list[str]:
    """The columns of a table, or the fields of its first JSON object; of a folder, those of its first data file."""
    try:
        file = find_files(path)[0] if path.is_dir() else path
        if file.is_dir():
            return saved_columns(saved_splits(file))
        suffix = file.suffix.lower()
        if suffix in (".csv", ".tsv"):
            return header_of(decode(_head(file), file.name), "\t" if suffix == ".tsv" else ",")
        if suffix in (".xlsx", ".xlsm"):
            return sheet_columns(read_bytes(file), file.name)
        if suffix == ".parquet":
            return parquet_columns(read_bytes(file))
        if suffix in (".json", ".jsonl", ".ndjson"):
            return _object_fields(file)
    except (LayerSelectError, OSError):
        pass
    return []


def _head(file: Path) -> bytes:
    """The first bytes of a file, up to the end of a line."""
    with file.open("rb") as lines:
        found = lines.read(HEAD)
    return found if len(found) < HEAD else found[: found.rfind(b"\n") + 1] or found


def _object_fields(file: Path) -> list[str]:
    for line in itertools.islice(decode(_head(file), file.name).split("\n"), 20):
        with contextlib.suppress(ValueError, RecursionError):  # a malformed line says nothing
            if isinstance(record := json.loads(line), dict):
                return list(record)
    return []
