"""The one schema that every corpus is brought into, and the `Corpus` that carries it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import LayerSelectError
from ._extras import require

if TYPE_CHECKING:
    from datasets import DatasetDict, Features

SPLITS = ("train", "validation", "test")
"""Names of the splits, in the order in which they are listed everywhere."""

LEFT_OUT = ""
"""What stands in the place of a split's name for a row that is in none."""

COLUMNS = ("id", "doc_id", "before", "after", "intentions", "split", "before_context", "after_context")
"""Columns of every split: all strings, except `intentions`, a list of strings.

`before_context` is the text that stands in front of the revision in its document and `after_context`
the text that follows it, verbatim; both are "" where the corpus has none.
"""


class CorpusError(LayerSelectError):
    """A corpus, a file of it or an option for it cannot be used; the message says which and what to do."""


class BadRow(ValueError):
    """A row does not fit the schema; the message is the reason. Loaders turn it into a `Defect`."""


@dataclass(frozen=True)
class Defect:
    """Something wrong in a corpus, found while it was loaded.

    Attributes:
        file: the file, relative to the folder that was given, or a hub id with its split.
        row: 1-based line of a text file, row of a worksheet or record of a table; 0 is the whole file.
        reason: what is wrong.
        kept: the row is in the corpus all the same; otherwise it was skipped.
    """

    file: str
    row: int
    reason: str
    kept: bool = False

    def __str__(self) -> str:
        place = f"{self.file}:{self.row}" if self.row else self.file
        return f"{place}: {self.reason}"


@dataclass
class Revision:
    """One row on its way into a corpus; `split` is the corpus's own (official) split, or ""."""

    id: str
    doc_id: str
    before: str
    after: str
    intentions: list[str]
    split: str = ""
    before_context: str = ""
    after_context: str = ""


@dataclass
class RawCorpus:
    """What a loader found, before labels are mapped and splits are made.

    Attributes:
        name: the name of the corpus as tables and reports print it.
        rows: usable revisions in the order of the files.
        defects: rows that are not usable, or are kept in spite of a defect.
        notes: sentences for the user: what was dropped on purpose, what is unusual.
        guesses: sentences on what the files do not say and was guessed (separators, sheets, missing cells).
        splits_seen: official splits that the files name, also those without a usable row.
        label_sets: name of a label set -> mapping of the corpus's labels to the set's (a label that is
            missing in the mapping is dropped), or None to keep all labels as they are. Holds "default".
    """

    name: str
    rows: list[Revision] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)
    splits_seen: list[str] = field(default_factory=list)
    label_sets: Mapping[str, Mapping[str, str] | None] = field(default_factory=lambda: {"default": None, "all": None})


@dataclass(frozen=True)
class Corpus:
    """A revision corpus in the package's schema.

    Attributes:
        name: what it is called in tables and reports.
        splits: the splits ("train", "validation", "test", those there are), each with `COLUMNS`.
        labels: all intentions that occur, sorted; the position of a label is its class number.
        multi_label: some row has more than one intention.
        defects: what was wrong in the files; rows are skipped unless `Defect.kept`.
        notes: sentences for the user (leaking documents, what was dropped on purpose).
        fingerprint: 16 hex digits over all rows and labels; equal for equal content.
    """

    name: str
    splits: DatasetDict
    labels: list[str]
    multi_label: bool
    defects: list[Defect] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fingerprint: str = ""

    @property
    def label_ids(self) -> dict[str, int]:
        """Class number of each label."""
        return {label: number for number, label in enumerate(self.labels)}

    def __len__(self) -> int:
        """Number of rows in all splits together."""
        return sum(len(split) for split in self.splits.values())


def features() -> Features:
    """The `datasets.Features` of every split."""
    datasets = require("datasets", "A corpus")
    text = datasets.Value("string")
    return datasets.Features({name: [text] if name == "intentions" else text for name in COLUMNS})


def build_corpus(raw: RawCorpus, splits: Sequence[str]) -> Corpus:
    """Make a `Corpus` of the rows of `raw`; `splits[i]` names the split of row i, or is `LEFT_OUT`.

    Row ids are made unique ("7", "7#2", ...), since predictions are joined to rows by id.

    Raises:
        LayerSelectError: the package `datasets` is missing.
    """
    datasets = require("datasets", "A corpus")
    notes = list(raw.notes)
    ids = _unique([row.id for row in raw.rows])
    if renamed := sum(new != row.id for new, row in zip(ids, raw.rows, strict=True)):
        notes.append(f"{renamed} rows repeat an id of another row; '#2', '#3', ... was appended to theirs")
    tables: dict[str, dict[str, list[Any]]] = {}
    for row_id, row, split in zip(ids, raw.rows, splits, strict=True):
        if split == LEFT_OUT:
            continue
        table = tables.setdefault(split, {name: [] for name in COLUMNS})
        for name in COLUMNS:
            value = {"id": row_id, "split": split}.get(name, getattr(row, name))
            table[name].append(value)
    kind = features()
    ordered = [name for name in SPLITS if name in tables]
    found = datasets.DatasetDict({name: datasets.Dataset.from_dict(tables[name], features=kind) for name in ordered})
    labels = sorted({label for row in raw.rows for label in row.intentions})
    return Corpus(
        name=raw.name,
        splits=found,
        labels=labels,
        multi_label=any(len(row.intentions) > 1 for row in raw.rows),
        defects=list(raw.defects),
        notes=notes,
        fingerprint=_fingerprint(labels, (tables[name] for name in ordered)),
    )


def text_of(record: Mapping[str, Any], column: str) -> str:
    """The text in a cell of a record; a null cell, and one that is not a number, is an empty text.

    Raises:
        BadRow: the field is missing, is not a string, is too long, or cannot be written as UTF-8.
    """
    if column not in record:
        raise BadRow(f"the field '{column}' is missing")
    value = record[column]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str):
        raise BadRow(f"the field '{column}' is {type(value).__name__}, not a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow(f"the field '{column}' holds half of a surrogate pair, which is no text") from error
    return value


def pair_of(record: Mapping[str, Any], before: str, after: str) -> tuple[str, str]:
    """The two sides of a revision; one of them may be empty (an addition or a deletion).

    Raises:
        BadRow: as `text_of`, or both sides are empty.
    """
    pair = text_of(record, before), text_of(record, after)
    if not pair[0].strip() and not pair[1].strip():
        raise BadRow(f"both '{before}' and '{after}' are empty")
    return pair


def fold(text: str) -> str:
    """`text` with every run of white space made one space and none at the ends."""
    return " ".join(text.split())


def _unique(ids: Iterable[str]) -> list[str]:
    ids = list(ids)
    taken, found = set(ids), []
    seen: dict[str, int] = {}
    for name in ids:
        seen[name] = seen.get(name, 0) + 1
        new = name
        if seen[name] > 1:
            while (new := f"{name}#{seen[name]}") in taken:
                seen[name] += 1
            taken.add(new)
        found.append(new)
    return found


def _fingerprint(labels: list[str], tables: Iterable[dict[str, list[Any]]]) -> str:
    digest = hashlib.sha256(json.dumps(labels).encode())
    for table in tables:
        for values in zip(*table.values(), strict=True):
            digest.update(json.dumps(values).encode())
    return digest.hexdigest()[:16]
