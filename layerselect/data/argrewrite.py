"""ArgRewrite V.2 (Kashefi et al. 2022, doi 10.1007/s10579-021-09567-z): drafts of essays, aligned by sentence.

A revision unit is a connected component of the alignment between an old and a new draft, over both sheets
of a workbook. Its labels are the purposes that either sheet names. What the operation columns say is not
read: where they disagree with the alignment, the alignment is right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .argrewrite_text import Essays, mend
from .schema import BadRow, CorpusError, Defect, RawCorpus, Revision, fold
from .table import short
from .tables import read_bytes, read_workbook

PURPOSES = (
    "Claims/Ideas",
    "Conventions/Grammar/Spelling",
    "Evidence",
    "General Content Development",
    "Organization",
    "Precision",
    "Rebuttal/Reservation",
    "Warrant/Reasoning/Backing",
    "Word-Usage/Clarity",
)
SURFACE = ("Conventions/Grammar/Spelling", "Organization", "Word-Usage/Clarity")
_PURPOSE_SET = {purpose: purpose for purpose in PURPOSES}
LABEL_SETS: Mapping[str, Mapping[str, str] | None] = {
    "default": _PURPOSE_SET,
    "purpose": _PURPOSE_SET,
    "all": _PURPOSE_SET,
    "surface-content": {purpose: "surface" if purpose in SURFACE else "content" for purpose in PURPOSES},
}
UNANNOTATED = "Unannotated"

OLD, NEW = "Old Draft", "New Draft"
INDEX, TEXT, ALIGNED, PURPOSE = "Sentence Index", "Sentence Content", "Aligned Index", "Revision Purpose Level 0"
_WORKBOOK = re.compile(r"Annotation_2018argrewrite_(\d+)(_NEW)*\.txt\.xlsx")
_DRAFTS = ("12", "23")

Node = tuple[str, int]
"""(sheet, sentence index)."""


@dataclass
class _Sentence:
    row: int
    text: str
    aligned: list[int]
    purposes: list[str]
    problem: str = ""


@dataclass
class _Counts:
    unannotated: int = 0
    same: int = 0
    unchanged: int = 0
    mended: int = 0
    workbooks: int = 0
    writers: set[str] = field(default_factory=set)


def dataset_folder(path: Path) -> Path | None:
    """The folder that holds `annotations`, given that folder, one above it or `annotations` itself; else None."""
    places = [path, path / "dataset", *([path.parent] if path.name == "annotations" else [])]
    found = [folder for folder in places if (folder / "annotations").is_dir()]
    return next((folder for folder in found if any(_workbooks(folder))), None)


def read_argrewrite(path: Path) -> RawCorpus:
    """Every revision unit of every workbook; `doc_id` is the writer, so both revisions of an essay stay together.

    A malformed cell is a defect, and the unit that it belongs to is left out. A workbook that cannot be
    read is a defect of row 0.

    Raises:
        CorpusError: the folder holds no annotation workbook, or none that can be read.
        LayerSelectError: the package `openpyxl` is missing.
    """
    folder = dataset_folder(path)
    if folder is None:
        raise CorpusError(
            f"{path} holds no ArgRewrite V.2 workbooks: give the folder in which "
            "dataset/annotations/A/12/Annotation_2018argrewrite_*.xlsx and the like lie"
        )
    raw = RawCorpus("argrewrite", label_sets=LABEL_SETS)
    counts = _Counts()
    for file, condition, drafts, writer in _workbooks(folder):
        name = file.relative_to(folder / "annotations").as_posix()
        try:
            sheets = read_workbook(read_bytes(file), name)
            old, new = (_sentences(sheets, sheet, name, raw) for sheet in (OLD, NEW))
        except CorpusError as error:
            raw.defects.append(Defect(name, 0, str(error)))
            continue
        counts.workbooks += 1
        counts.writers.add(writer)
        essays = _essays(folder, writer)
        for sentence in (*old.values(), *new.values()):
            mended = mend(sentence.text, essays)
            counts.mended += mended != sentence.text
            sentence.text = mended
        stem = f"{condition}-{drafts}-{writer}"
        raw.rows += _revisions({OLD: old, NEW: new}, name, stem, f"writer-{writer}", raw, counts)
    if not counts.workbooks:
        raise CorpusError(f"no workbook under {folder} can be read; the first problem is {raw.defects[0]}")
    raw.notes += _notes(counts)
    return raw


def _workbooks(folder: Path) -> Iterator[tuple[Path, str, str, str]]:
    """(file, condition, drafts, writer) of every annotation workbook, in a fixed order."""
    for file in sorted(folder.glob("annotations/*/*/*.xlsx")):
        found = _WORKBOOK.fullmatch(file.name)
        if found and file.parent.name in _DRAFTS:
            yield file, file.parent.parent.name, file.parent.name, found.group(1)


def _essays(folder: Path, writer: str) -> Essays:
    """All drafts of a writer that can be read (those of drafts 1 and 2 have a prefix in their names)."""
    texts = []
    for draft in (1, 2, 3):
        for prefix in (f"draft{draft}_", ""):
            file = folder / "essays" / f"Draft{draft}" / f"{prefix}2018argrewrite_{writer}.txt"
            try:
                texts.append(file.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError):
                continue  # essays only help to mend cells; without them the cells stay as they are
    return Essays(texts)


def _sentences(sheets: Any, sheet: str, name: str, raw: RawCorpus) -> dict[int, _Sentence]:
    """Sentences of a sheet by their index; columns are found by name, since files have 15 or 18 of them."""
    if sheet not in sheets:
        raise CorpusError(f"the sheet '{sheet}' is missing; there are {short(', '.join(sheets))}")
    header, rows = sheets[sheet]
    if missing := [column for column in (INDEX, TEXT, ALIGNED, PURPOSE) if column not in header]:
        raise CorpusError(
            f"the sheet '{sheet}' has no column '{missing[0]}'; its columns are {short(', '.join(header))}"
        )
    place = {column: header.index(column) for column in (INDEX, TEXT, ALIGNED, PURPOSE)}
    found: dict[int, _Sentence] = {}
    for row, cells in rows:
        cell = {column: cells[number] for column, number in place.items()}
        try:
            index = _whole(cell[INDEX])
            if index in found:
                raise BadRow(f"the sentence index {index} stands twice in the sheet")
        except BadRow as error:
            raw.defects.append(Defect(name, row, f"{sheet}: {error}"))
            continue
        found[index] = _sentence(cell, row, sheet)
        if found[index].problem:
            raw.defects.append(Defect(name, row, f"{sheet}: {found[index].problem}"))
    return found


def _sentence(cell: dict[str, Any], row: int, sheet: str) -> _Sentence:
    """A row of a sheet; what is wrong with it stands in `problem`, since its unit must know of it."""
    problem, aligned, purposes = "", [], []
    text = cell[TEXT] if isinstance(cell[TEXT], str) else ""
    try:
        if not text.strip():
            raise BadRow(f"the cell '{TEXT}' is empty or no text")
        aligned = _aligned(cell[ALIGNED], "DELETE" if sheet == OLD else "ADD")
        purposes = _purposes(cell[PURPOSE])
    except BadRow as error:
        problem = str(error)
    return _Sentence(row, text, aligned, purposes, problem)


def _whole(value: Any) -> int:
    """A sentence number: 3, 3.0 and "3" are the same."""
    try:
        number = float(value)
        if number == int(number) and number >= 1:
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise BadRow(f"'{short(str(value))}' is no sentence index")


def _aligned(value: Any, nothing: str) -> list[int]:
    words = [] if value is None else [part.strip() for part in str(value).split(",")]
    if [word.upper() for word in words] == [nothing]:
        return []
    if not words or not all(words):
        raise BadRow(f"the cell '{ALIGNED}' is '{short(str(value))}', not sentence numbers or {nothing}")
    return [_whole(word) for word in words]


def _purposes(value: Any) -> list[str]:
    found = [part.strip() for part in str(value or "").split(",") if part.strip()]
    for purpose in found:
        if purpose not in PURPOSES and purpose.lower() != UNANNOTATED.lower():
            raise BadRow(f"unknown purpose '{short(purpose)}'")
    return found


def _revisions(
    sheets: dict[str, dict[int, _Sentence]], name: str, stem: str, doc_id: str, raw: RawCorpus, counts: _Counts
) -> Iterator[Revision]:
    for unit in _components(sheets, name, raw):
        sides = {sheet: sorted(index for where, index in unit if where == sheet) for sheet in (OLD, NEW)}
        members = [sheets[sheet][index] for sheet, index in unit]
        if any(member.problem for member in members):
            continue  # its defect is reported already
        before, after = (" ".join(sheets[sheet][i].text for i in sides[sheet]) for sheet in (OLD, NEW))
        named = {purpose for member in members for purpose in member.purposes}
        purposes = sorted(purpose for purpose in named if purpose in PURPOSES)
        if fold(before) == fold(after):
            counts.same += bool(named)
            counts.unchanged += not named
            continue
        if not purposes:
            if named:
                counts.unannotated += 1
            else:
                raw.defects.append(Defect(name, members[0].row, "a changed sentence has no revision purpose"))
            continue
        numbers = [f"{letter}{'.'.join(map(str, side))}" for letter, side in zip("on", sides.values(), strict=True)]
        # A deletion or a change is read in the old draft, an addition has a place in the new one only.
        draft, places = (sheets[OLD], sides[OLD]) if sides[OLD] else (sheets[NEW], sides[NEW])
        around = [draft[i].text if i in draft else "" for i in (places[0] - 1, places[-1] + 1)]
        yield Revision("-".join((stem, *numbers)), doc_id, before, after, purposes, "", *around)


def _components(sheets: dict[str, dict[int, _Sentence]], name: str, raw: RawCorpus) -> list[list[Node]]:
    """Connected components of the alignment, in the order of their first sentence (old draft first)."""
    parent: dict[Node, Node] = {(sheet, index): (sheet, index) for sheet in sheets for index in sheets[sheet]}

    def root(node: Node) -> Node:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for sheet, other in ((OLD, NEW), (NEW, OLD)):
        for index, sentence in sheets[sheet].items():
            for partner in sentence.aligned:
                if partner in sheets[other]:
                    parent[root((sheet, index))] = root((other, partner))
                else:
                    sentence.problem = f"aligned with sentence {partner}, which the sheet '{other}' does not have"
                    raw.defects.append(Defect(name, sentence.row, f"{sheet}: {sentence.problem}"))
    units: dict[Node, list[Node]] = {}
    for node in parent:
        units.setdefault(root(node), []).append(node)
    return list(units.values())


def _notes(counts: _Counts) -> list[str]:
    notes = [f"{counts.workbooks} workbooks of {len(counts.writers)} writers were read; documents are writers"]
    if counts.unchanged:
        notes.append(f"{counts.unchanged} sentences without a change were left out")
    if counts.same:
        notes.append(f"{counts.same} labelled units whose sides are equal after white space is folded were dropped")
    if counts.unannotated:
        notes.append(f"{counts.unannotated} units marked {UNANNOTATED} only were dropped")
    if counts.mended:
        notes.append(f"{counts.mended} cells with damaged characters or doubled quotes were mended")
    return notes
