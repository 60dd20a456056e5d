"""Tables of Arrow: Parquet files, Arrow files, and the folders that `Dataset.save_to_disk` writes.

pyarrow is kept to this thread. Its pools, once started, wind down while the process ends, and abort it where torch's
are there too.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ._extras import require
from .file_bytes import decode, read_bytes, shown
from .limits import Limits
from .schema import BadRow, CorpusError
from .splits import split_name
from .table import Record, Sides, Table, check_header, short

DICT, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
"""Files of a folder that `save_to_disk` wrote: of a `DatasetDict`, and of each `Dataset`."""


def read_parquet(content: bytes, name: str, sides: Sides = (None, None)) -> list[Table]:
    """Parquet; row numbers count records from 1."""
    arrow = require("pyarrow", "Reading Parquet")
    parquet = require("pyarrow.parquet", "Reading Parquet")
    limits = Limits(name, len(content))

    def batches() -> Iterator[Any]:
        meta = parquet.ParquetFile(arrow.BufferReader(content), pre_buffer=False).metadata
        limits.check_columns(meta.num_columns)
        chunks = [
            meta.row_group(group).column(column)
            for group in range(meta.num_row_groups)
            for column in range(meta.num_columns)
        ]
        limits.check_rows(meta.num_rows, meta.num_columns)
        limits.check_cells(sum(max(0, chunk.num_values) for chunk in chunks))
        limits.check_unpacked(sum(max(0, chunk.total_uncompressed_size) for chunk in chunks))
        # A text that is repeated in every row is kept once, until it is known what all rows take.
        texts = sorted({chunk.path_in_schema for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"})
        file = parquet.ParquetFile(arrow.BufferReader(content), pre_buffer=False, read_dictionary=texts)
        yield file.schema_arrow
        yield from file.iter_batches(batch_size=16_384, use_threads=False)

    return [_table(arrow, name, "Parquet", batches(), limits)]


def read_arrow(content: bytes, name: str, sides: Sides = (None, None)) -> list[Table]:
    """An Arrow file or stream, as `datasets` keeps its tables."""
    arrow = require("pyarrow", "Reading Arrow files")
    return [_table(arrow, name, "Arrow", _ipc(arrow, content), Limits(name, len(content)))]


def parquet_columns(content: bytes) -> list[str]:
    """The columns of a Parquet file; none if it cannot be read."""
    arrow, parquet = require("pyarrow", "Reading Parquet"), require("pyarrow.parquet", "Reading Parquet")
    try:
        return list(parquet.ParquetFile(arrow.BufferReader(content), pre_buffer=False).schema_arrow.names)
    except _errors(arrow):
        return []


def saved_splits(folder: Path) -> dict[str, Path]:
    """The folders of the splits that `save_to_disk` wrote in a folder; "" names a set without splits. Empty if it did
    not.

    Raises:
        CorpusError: it did, and a split is missing or lies elsewhere.
    """
    if (folder / STATE).is_file() and any(folder.glob("*.arrow")):
        return {"": folder}
    if not (folder / DICT).is_file():
        return {}
    found = _object(folder / DICT).get("splits")
    if not isinstance(found, list) or not all(isinstance(split, str) for split in found) or not found:
        raise CorpusError(f"{shown(folder / DICT)} lists no splits: save the set again, or export it with to_parquet")
    return {split: _inside(folder, split) for split in found}


def read_saved(folder: Path, splits: Mapping[str, Path]) -> list[Table]:
    """Every split of a folder that `save_to_disk` wrote."""
    arrow = require("pyarrow", "Reading a folder of save_to_disk")
    tables = []
    for split, place in splits.items():
        files = _object(place / STATE).get("_data_files")
        if not isinstance(files, list) or not all(
            isinstance(file, dict) and isinstance(file.get("filename"), str) for file in files
        ):
            raise CorpusError(
                f"{shown(place / STATE)} lists no data files: save the set again, or export it with to_parquet"
            )
        contents = [read_bytes(_inside(place, file["filename"])) for file in files]
        name = f"{shown(folder.name)}[{shown(split)}]" if split else shown(folder.name)
        features = _object(place / INFO).get("features") if (place / INFO).is_file() else None
        limits = Limits(name, sum(map(len, contents)))
        streams = (part for content in contents for part in _ipc(arrow, content))
        table = _table(arrow, name, "Arrow", streams, limits, features)
        table.split = split_name(split) or ""
        tables.append(table)
    return tables


def saved_columns(splits: Mapping[str, Path]) -> list[str]:
    """The columns of a saved set, from its description."""
    features = _object(next(iter(splits.values())) / INFO).get("features")
    return list(features) if isinstance(features, dict) else []


def class_names(features: Any) -> dict[str, list[str]]:
    """Column -> names of its classes, of a description of columns as `datasets` writes it."""
    found = {}
    for column, kind in features.items() if isinstance(features, dict) else ():
        inner = kind[0] if isinstance(kind, list) and kind else kind
        inner = inner.get("feature", inner) if isinstance(inner, dict) else {}
        names = inner.get("names") if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" else None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            found[column] = names
    return found


def name_classes(record: Record, names: Mapping[str, list[str]]) -> Record | BadRow:
    """`record` with the names of classes for their numbers; -1 is how `datasets` writes a class that is missing."""
    for column, classes in names.items():
        value = record.get(column)
        cells = value if isinstance(value, list) else [value]
        named: list[Any] = []
        for cell in cells:
            if type(cell) is not int:
                named.append(cell)
            elif 0 <= cell < len(classes):
                named.append(classes[cell])
            elif cell == -1:
                named.append(None)
            else:
                return BadRow(f"the class number {cell} in '{column}' has no name: there are {len(classes)} classes")
        if column in record:
            record[column] = named if isinstance(value, list) else named[0]
    return record


def _table(arrow: Any, name: str, kind: str, batches: Iterable[Any], limits: Limits, features: Any = None) -> Table:
    """A table of batches of rows, the first of which is the schema."""
    table = Table(name)
    size = rows = 0
    names: dict[str, list[str]] = {}
    binary: list[str] = []
    try:
        for batch in batches:
            if isinstance(batch, arrow.Schema):
                if not table.columns:
                    check_header(list(batch.names), limits)
                    table.columns = list(batch.names)
                    names = class_names(features or _features(batch))
                    binary = [field.name for field in batch if _is_binary(arrow, field.type)]
                continue
            # Arrow believes offsets and lengths as they stand in the file, and reads where they lead.
            batch.validate(full=True)
            limits.check_rows(rows + batch.num_rows, max(1, batch.num_columns))
            size += sum(_size(arrow, column) for column in batch.columns)
            limits.check_unpacked(size)
            for record in batch.to_pylist():
                rows += 1
                for column in binary:
                    record[column] = _text(record[column])
                table.records.append((rows, name_classes(record, names)))
    except _errors(arrow) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{name} is not a readable {kind} file: {short(error)}") from error
    for column, classes in names.items():
        shown_names = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
        table.guesses.append(
            f"class numbers in '{column}' have the names that the file gives them ({short(shown_names)})"
        )
    if binary:
        table.guesses.append(f"bytes in '{binary[0]}' are read as UTF-8 text")
    return table


def _ipc(arrow: Any, content: bytes) -> Iterator[Any]:
    ipc = require("pyarrow.ipc", "Reading Arrow files")
    options = ipc.IpcReadOptions(use_threads=False)
    if content.startswith(b"ARROW1"):
        file = ipc.open_file(arrow.BufferReader(content), options=options)
        yield file.schema
        for number in range(file.num_record_batches):
            yield file.get_batch(number)
        return
    stream = ipc.open_stream(arrow.BufferReader(content), options=options)
    yield stream.schema
    yield from stream


def _errors(arrow: Any) -> tuple[type[BaseException], ...]:
    """What pyarrow raises of files that are broken, some of it only where a cell is looked at."""
    return (
        arrow.ArrowException,
        OSError,
        ValueError,
        OverflowError,
        TypeError,
        KeyError,
        IndexError,
        MemoryError,
        SystemError,
    )


def _features(schema: Any) -> Any:
    """What `datasets` says of the columns in a schema; None if it wrote nothing there."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"null"))
        return found["info"]["features"]
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        return None


def _size(arrow: Any, array: Any) -> int:
    """The bytes of an array once every cell has a text of its own."""
    if isinstance(array, arrow.DictionaryArray):
        words = array.dictionary
        if (
            arrow.types.is_string(words.type)
            or arrow.types.is_large_string(words.type)
            or _is_binary(arrow, words.type)
        ):
            compute = require("pyarrow.compute", "Reading Parquet")
            return compute.sum(compute.take(compute.binary_length(words), array.indices)).as_py() or 0
        return len(array) * max(8, words.nbytes)
    if isinstance(array, arrow.ListArray | arrow.LargeListArray | arrow.FixedSizeListArray):
        return 8 * len(array) + _size(arrow, array.flatten())
    if isinstance(array, arrow.StructArray):
        return sum(map(functools.partial(_size, arrow), array.flatten()))
    return array.nbytes


def _is_binary(arrow: Any, kind: Any) -> bool:
    if arrow.types.is_dictionary(kind):
        kind = kind.value_type
    return arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind)


def _text(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value  # whoever needs a text there says that it is none


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(decode(read_bytes(file), shown(file)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(
            f"{shown(file)} is no JSON ({short(error)}): save the set again, or export it with to_parquet"
        ) from error
    if not isinstance(found, dict):
        raise CorpusError(f"{shown(file)} holds no JSON object: save the set again, or export it with to_parquet")
    return found


def _inside(folder: Path, name: str) -> Path:
    """A file or folder by a name that a saved file gives, which must lie in `folder`."""
    if "\0" not in name and name not in ("", ".", "..") and (folder / name).resolve().parent == folder.resolve():
        return folder / name
    raise CorpusError(f"{shown(folder)} names a part '{shown(name)}' that does not lie in it: save the set again")
