"""Records out of files: JSON lines, JSON, CSV, TSV, Parquet, Arrow, Excel, and saved sets. No pickles, no scripts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from .arrow_tables import DICT, INFO, STATE, read_arrow, read_parquet, read_saved, saved_splits
from .file_bytes import decode, read_bytes, shown
from .json_table import read_json
from .schema import CorpusError
from .splits import split_name
from .table import Record, Sides, Table
from .text_table import read_csv, read_tsv
from .workbook import read_excel, read_workbook

__all__ = [
    "READERS",
    "Record",
    "Table",
    "decode",
    "find_files",
    "read_bytes",
    "read_file",
    "read_tables",
    "read_workbook",
    "split_of",
]

READERS: dict[str, Callable[[bytes, str, Sides], list[Table]]] = {
    ".jsonl": read_json,
    ".json": read_json,
    ".ndjson": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".xlsx": read_excel,
    ".xlsm": read_excel,
}

_DESCRIPTIONS = (DICT, INFO, STATE, "dataset_infos.json")
"""Files that `datasets` writes beside data: no data themselves."""

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})")


def read_tables(path: Path, sides: Sides = (None, None)) -> list[Table]:
    """Every table of a file or a folder: its files, or the splits of a saved set.

    Raises:
        CorpusError: missing, unreadable, empty, of an unknown type, beyond the limits, or not what its suffix says.
        LayerSelectError: the package that reads this type is not installed.
    """
    if not path.is_dir():
        return read_file(path, sides)
    if saved := saved_splits(path):
        return _with_rows(read_saved(path, saved), path)
    return [table for file in find_files(path) for table in read_file(file, sides)]


def read_file(path: Path, sides: Sides = (None, None)) -> list[Table]:
    """The table of a file, by its suffix; of a workbook, one for each sheet that is read."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise CorpusError(f"{shown(path)} has the suffix '{shown(path.suffix)}': give one of {', '.join(READERS)}")
    content = read_bytes(path)
    try:
        tables = reader(content, shown(path), sides)
    except MemoryError as error:
        raise CorpusError(f"{shown(path)} needs more memory than there is: split it into several files") from error
    for table in tables:
        table.name = shown(path.name) + table.name.removeprefix(shown(path))
        table.split = table.split or split_of(path)
    return _with_rows(tables, path)


def _with_rows(tables: list[Table], path: Path) -> list[Table]:
    if not any(table.records for table in tables):
        raise CorpusError(f"{shown(path)} holds no rows: give a file with revisions in it")
    return tables


def split_of(path: Path) -> str:
    """The split that a file's name says, also of a part ("train-00000-of-00002"), or ""."""
    found = _SHARD.fullmatch(path.stem)
    return split_name(found.group(1) if found else path.stem) or ""


def find_files(folder: Path) -> list[Path]:
    """Data files of a folder: those named after a split where there are any, else all of them.

    Raises:
        CorpusError: the folder holds no data file, two files for one split, not all parts of one, or a link that
            leads out of it.
    """
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise CorpusError(f"cannot read the folder {shown(folder)}: {error.strerror or error}") from error
    files = [
        path
        for path in inside
        if path.suffix.lower() in READERS
        and path.name not in _DESCRIPTIONS
        and not path.name.startswith(("~$", "."))
        and path.is_file()
    ]
    named: dict[str, list[Path]] = {}
    for path in files:
        if split := split_of(path):
            named.setdefault(split, []).append(path)
    for split, paths in named.items():
        _check_parts(folder, split, paths)
    if not files:
        below = ", ".join(shown(path.name) for path in inside if path.is_dir())[:200]
        hint = f"one of its folders ({below}) may be meant" if below else "give a file, or a folder with some"
        raise CorpusError(f"{shown(folder)} holds no corpus that is known and no {', '.join(READERS)} file: {hint}")
    chosen = [path for paths in named.values() for path in paths] or files
    for path in chosen:
        _check_link(folder, path)
    return chosen


def _check_parts(folder: Path, split: str, paths: list[Path]) -> None:
    parts = [_SHARD.fullmatch(path.stem) for path in paths]
    if len(paths) > 1 and not (all(parts) and len({(part[1], part[3]) for part in parts if part}) == 1):
        raise CorpusError(
            f"{shown(folder)} has two files for {split}, {shown(paths[0].name)} and {shown(paths[1].name)}: keep one"
        )
    if parts[0] and int(parts[0][3]) != len(paths):
        raise CorpusError(
            f"{shown(folder)} has {len(paths)} of the {int(parts[0][3])} parts of {split}: fetch the others"
        )


def _check_link(folder: Path, path: Path) -> None:
    """Refuse a link that leads out of the folder, except into the store of a downloaded set that the folder is part
    of.
    """
    if not path.is_symlink():
        return
    target, home = path.resolve(), folder.resolve()
    stores = [parent / "blobs" for parent in home.parents if parent.name == "snapshots" for parent in [parent.parent]]
    if not any(place in target.parents for place in (home, *stores)):
        raise CorpusError(
            f"{shown(path)} is a link to {shown(target)}, which does not lie in {shown(folder)}: give that file "
            "itself, or copy it"
        )
