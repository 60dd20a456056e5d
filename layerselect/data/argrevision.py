"""ArgRevision: revisions of evidence and reasoning in pupils' essays, written with the eRevise system.

The corpus is the second one of IR-Tuning (Liu & Litman, arXiv 2510.00268); its purposes are those of the RER scheme
(Afrin et al., BEA 2020). It is given out on request only and no copy of it was at hand: the format below is what the
authors' public code reads and writes, and nobody has run this loader on the corpus itself.

* IR-Tuning reads one workbook with the columns `old_sentences`, `new_sentences` and `purpose_labels`, one revision a
  row; an empty cell is the missing side of an addition or a deletion. Its code skips the label "claim".
* The code of the same authors for revision quality (Liu et al., BEA 2023) has one workbook an essay, named after the
  essay, with every aligned sentence of the two drafts in order and `old_sentence_ids`, `new_sentence_ids`,
  `coarse_labels` and `fine_labels` besides; sentences that did not change, and changes of the surface, have no
  purpose. Joined into one table, the rows carry `essay_ids`.

Both are read. Splits go by essay where something names it (such a column, or the name of a workbook among several).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import peek
from .arrow_tables import saved_splits
from .file_bytes import shown
from .schema import BadRow, CorpusError, Defect, RawCorpus, Revision, fold, pair_of
from .table import short
from .tables import READERS, Record, Table, find_files, read_file, read_tables

OLD, NEW, PURPOSE = "old_sentences", "new_sentences", "purpose_labels"
IDS = {OLD: "old_sentence_ids", NEW: "new_sentence_ids"}
ESSAYS = ("essay_ids", "essay_id", "doc_id")
"""Columns that may name the essay of a row, in the order in which they are looked for."""

PURPOSES = ("LCE", "already exists", "commentary", "irrelevant", "not LCE", "relevant")
# The first is skipped by IR-Tuning's code; the others are further purposes of the RER scheme. LCE: linked claim
# and evidence.
FURTHER = ("claim", "not text based", "minimal", "paraphrase", "generic")
LABEL_SETS: Mapping[str, Mapping[str, str] | None] = {
    "default": {purpose: purpose for purpose in PURPOSES},
    "all": {purpose: purpose for purpose in (*PURPOSES, *FURTHER)},
}
_SPELLED = {purpose.lower(): purpose for purpose in (*PURPOSES, *FURTHER)}


@dataclass
class _Counts:
    unchanged: int = 0
    unlabelled: int = 0
    same: int = 0
    without_essay: int = 0


def is_table(columns: Sequence[str]) -> bool:
    """Whether these are the columns of an ArgRevision table."""
    return {OLD, NEW, PURPOSE} <= set(columns)


def is_seen(path: Path) -> bool:
    """Whether `path` is such a table or a folder of them, from the first one's header."""
    try:
        return is_table(peek.fields(path if path.is_dir() and saved_splits(path) else files_of(path)[0]))
    except CorpusError:
        return False


def files_of(path: Path) -> list[Path]:
    """The workbooks under `path`: the file itself; those of the folder; or those of the folders in it (`mvp`, `space`).

    Raises:
        CorpusError: there is none.
    """
    if not path.is_dir():
        return [path]
    if any(file.is_file() and file.suffix.lower() in READERS for file in path.iterdir()):
        return find_files(path)
    below = sorted(file for file in path.glob("*/*.xlsx") if not file.name.startswith("~$"))
    return below or find_files(path)  # which says what is missing


def read_argrevision(path: Path) -> RawCorpus:
    """Every revision with a purpose; `doc_id` is the essay.

    The sentences around are found by the sentences' numbers, so only where both the essay and the numbers are known:
    for a deletion or a change those of the old draft, for an addition those of the new one.

    Raises:
        CorpusError: no table with the three columns.
        LayerSelectError: the package that reads this type of file is missing.
    """
    if path.is_dir() and saved_splits(path):
        files, tables = [path], [(path, table) for table in read_tables(path)]
    else:
        files = files_of(path)
        tables = [(file, table) for file in files for table in read_file(file)]
    raw, counts = RawCorpus("argrevision", label_sets=LABEL_SETS), _Counts()
    for file, table in tables:
        if not is_table(table.columns):
            raise CorpusError(
                f"{shown(file)} has not the columns {OLD}, {NEW}, {PURPOSE} but "
                f"{short(', '.join(table.columns) or 'none')}: check the path or name another format"
            )
        name = shown(file.relative_to(path).as_posix() if path.is_dir() and file != path else file.name)
        # A workbook among several is an essay, unless its name says that it is a split.
        essay = name.removesuffix(file.suffix) if len(files) > 1 and not table.split else ""
        table.name = name + table.name.removeprefix(shown(file.name))
        if table.split:
            raw.splits_seen.append(table.split)
        raw.guesses += [f"{table.name}: {guess}" for guess in table.guesses]
        raw.rows += _revisions(table, essay, raw, counts)
    raw.notes += _notes(counts, len(files))
    return raw


def _revisions(table: Table, essay: str, raw: RawCorpus, counts: _Counts) -> Iterator[Revision]:
    column = next((name for name in ESSAYS if name in table.columns), "")
    drafts = _drafts(table, column, essay)
    for number, record in table.records:
        try:
            if isinstance(record, BadRow):
                raise record
            sides = {side: _text(record.get(side)) for side in (OLD, NEW)}
            before, after = pair_of(sides, OLD, NEW)
            purpose = _purpose(record.get(PURPOSE))
        except BadRow as error:
            raw.defects.append(Defect(table.name, number, str(error)))
            continue
        if fold(before) == fold(after):
            counts.same += bool(purpose)
            counts.unchanged += not purpose
            continue
        if not purpose:
            counts.unlabelled += 1
            continue
        doc_id = _number_or_name(record.get(column)) or essay
        counts.without_essay += not doc_id
        stem = table.name.rpartition(".")[0] or table.name
        yield Revision(
            id=f"{stem}-{number}",
            doc_id=doc_id or f"text:{fold(before) or fold(after)}",
            before=before,
            after=after,
            intentions=[purpose],
            split=table.split,
            **_around(drafts, doc_id, record, OLD if before.strip() else NEW),
        )


Drafts = Mapping[tuple[str, str, int], str]
"""(essay, column of the draft, number of the sentence) -> sentence."""


def _drafts(table: Table, column: str, essay: str) -> Drafts:
    """The drafts as far as a table has them, read for the sentences around a revision; what is odd is left out."""
    found: dict[tuple[str, str, int], str] = {}
    for _, record in table.records:
        if not isinstance(record, dict) or not (doc_id := _number_or_name(record.get(column)) or essay):
            continue
        for side in (OLD, NEW):
            number, text = _number_or_name(record.get(IDS[side])), record.get(side)
            if _is_number(number) and isinstance(text, str):
                found[doc_id, side, int(number)] = text
    return found


def _around(drafts: Drafts, doc_id: str, record: Record, side: str) -> dict[str, str]:
    number = _number_or_name(record.get(IDS[side]))
    if not doc_id or not _is_number(number):
        return {}
    return {
        "before_context": drafts.get((doc_id, side, int(number) - 1), ""),
        "after_context": drafts.get((doc_id, side, int(number) + 1), ""),
    }


def _text(value: Any) -> Any:
    """A cell; an empty one of a file that was written by pandas is not a number."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _purpose(value: Any) -> str:
    """The purpose as it is spelled in `PURPOSES`; "" for an empty cell."""
    value = _text(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    if not isinstance(value, str) or (found := _SPELLED.get(fold(value).lower())) is None:
        raise BadRow(f"unknown purpose '{short(str(value))}'")
    return found


def _number_or_name(value: Any) -> str:
    """A cell that names an essay or numbers a sentence: 12, 12.0, "12" and " 12" are the same; "" where empty."""
    value = _text(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def _is_number(text: str) -> bool:
    """Whether a text numbers a sentence; what is longer than any draft does not."""
    return text.isdecimal() and len(text) < 10


def _notes(counts: _Counts, files: int) -> list[str]:
    notes = [f"{files} workbooks were read"] if files > 1 else []
    if counts.unchanged:
        notes.append(f"{counts.unchanged} sentences without a change were left out")
    if counts.unlabelled:
        notes.append(
            f"{counts.unlabelled} changed sentences without a purpose (as changes of the surface) were left out"
        )
    if counts.same:
        notes.append(f"{counts.same} labelled rows whose sides are equal after white space is folded were dropped")
    if counts.without_essay:
        notes.append(
            f"nothing names the essay of {counts.without_essay} rows: rows with the same text before count as one "
            f"document, so an essay may stand in two splits; a column {ESSAYS[0]} avoids it"
        )
    return notes
