"""Tables out of files, by their suffix: JSON lines, JSON, CSV, TSV, Parquet, Arrow, Excel. No pickles, no scripts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from layerselect.data.arrow_tables import read_arrow, read_parquet, read_saved, saved_splits
from layerselect.data.excel_tables import read_excel
from layerselect.data.file_bytes import read_bytes, shown
from layerselect.data.json_table import read_json
from layerselect.data.schema import CorpusError
from layerselect.data.splits import split_name
from layerselect.data.table import Record as Record  # found here by those who read tables
from layerselect.data.table import Sides, Table
from layerselect.data.text_table import read_csv, read_tsv

log = logging.getLogger(__name__)

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
_SUFFIXES = ", ".join(suffix for suffix in READERS if suffix not in (".arrow", ".xlsm"))
_NOT_TABLES = ("dataset_dict.json", "dataset_info.json", "state.json")


def read_tables(path: Path, sides: Sides = (None, None)) -> list[Table]:
    """Every table of a file, or of a folder that ``Dataset.save_to_disk`` wrote. What was guessed is logged, a line each.

    Raises:
        CorpusError: missing, unreadable, empty, too large, of an unknown type, or not what its suffix says.
        LayerSelectError: the package that reads this type is not installed.
    """
    if path.is_dir() and (splits := saved_splits(path)):
        tables = read_saved(path, splits)
    else:
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise CorpusError(f"{shown(path)} has the suffix '{shown(path.suffix)}': give one of {_SUFFIXES}")
        tables = reader(read_bytes(path), shown(path), sides)
        for table in tables:
            table.name = table.name.replace(shown(path), shown(path.name), 1)
            table.split = table.split or split_name(path.stem) or ""
    if not any(table.records for table in tables):
        raise CorpusError(f"{shown(path)} holds no rows: give a file with revisions in it")
    for table in tables:
        for guess in table.guesses:
            log.warning("%s: %s", table.name, guess)
    return tables


def read_table(path: Path, sides: Sides = (None, None)) -> Table:
    """The first table of a file (see :func:`read_tables`)."""
    return next(table for table in read_tables(path, sides) if table.records)


def find_files(folder: Path) -> list[Path]:
    """Data files of a folder: those named after a split where there are any, else all of them. A folder that ``save_to_disk`` wrote
    is one of them itself.

    Raises:
        CorpusError: the folder holds no data file, two files for one split, or cannot be looked into.
    """
    try:
        if saved_splits(folder):
            return [folder]
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise CorpusError(f"cannot look into {shown(folder)}: {error.strerror or error}") from error
    files = [
        path for path in inside if path.suffix.lower() in READERS and path.is_file() and path.name not in _NOT_TABLES
    ]
    named: dict[str, Path] = {}
    for path in files:
        split = split_name(path.stem)
        if split in named:
            raise CorpusError(
                f"{shown(folder)} has two files for {split}, {shown(named[split].name)} and {shown(path.name)}: keep one"
            )
        if split:
            named[split] = path
    if not files:
        below = ", ".join([shown(path.name) for path in inside if path.is_dir()][:5])
        hint = f"one of its folders ({below}) may be meant" if below else "give a file, or a folder with some"
        raise CorpusError(f"{shown(folder)} holds no corpus that is known and no {_SUFFIXES} file: {hint}")
    return list(named.values()) or files
