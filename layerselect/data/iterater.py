"""IteraTeR-HUMAN (Du et al., ACL 2022): sentence-level and document-level revisions with intentions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .schema import BadRow, CorpusError, Defect, RawCorpus, Revision, fold, pair_of, text_of
from .table import short
from .tables import Record, Table, find_files, read_file

HUB_IDS = {"iterater-sent": "wanyu/IteraTeR_human_sent", "iterater-doc": "wanyu/IteraTeR_human_doc"}
FOLDERS = {"iterater-sent": "human_sent_level", "iterater-doc": "human_doc_level"}

INTENTIONS = ("clarity", "coherence", "fluency", "meaning-changed", "style")
OTHERS = "others"
# The papers drop "others", a remainder of 54 edits that belong to no intention.
LABEL_SETS: Mapping[str, Mapping[str, str] | None] = {
    "default": {label: label for label in INTENTIONS},
    "all": {label: label for label in (*INTENTIONS, OTHERS)},
}

Context = Callable[[str, Record, str], tuple[str, str]]


def is_sentence_table(columns: Sequence[str]) -> bool:
    """Whether these are the columns of IteraTeR's table of sentences."""
    return {"before_sent", "after_sent", "labels"} <= set(columns)


def is_document_table(columns: Sequence[str]) -> bool:
    """Whether these are the columns of IteraTeR's table of documents."""
    return {"before_revision", "after_revision", "edit_actions"} <= set(columns)


def read_sentences(tables: Sequence[Table], documents: Sequence[Table] = ()) -> RawCorpus:
    """One row per edited sentence, `before` and `after` verbatim (leading spaces are in the data).

    Args:
        tables: the sentence-level files, one per split.
        documents: the document-level files of the same corpus where there are any: the sentence in
            front of the edited one and the one behind it are looked up in them.
    """
    raw = RawCorpus("iterater-sent", label_sets=LABEL_SETS)
    context = _contexts(documents)
    found = _each(raw, tables, lambda record, table: _sentence(record, table, context))
    if documents and found:
        missing = sum(not row.before_context and not row.after_context for row in raw.rows)
        raw.notes.append(f"the sentences around were found for {found - missing} of {found} rows")
    return raw


def read_documents(tables: Sequence[Table]) -> RawCorpus:
    """One row per document revision; its intentions are those of its edits (several labels).

    Where the edits, applied by their offsets, do not give `after_revision` (white space folded), the row
    is kept and a defect says so.
    """
    raw = RawCorpus("iterater-doc", label_sets=LABEL_SETS)
    for table in tables:
        for number, record in table.records:
            if isinstance(record, dict) and (reason := _inconsistent(record)):
                raw.defects.append(Defect(table.name, number, reason, kept=True))
    _each(raw, tables, _document)
    return raw


def document_files(place: Path) -> list[Table]:
    """The document-level tables that lie beside sentence-level files (../human_doc_level/<same name>), of a file or a
    folder.
    """
    try:
        files = find_files(place) if place.is_dir() else [place]
    except CorpusError:
        return []  # a saved set has no files of its own beside it
    tables = []
    for path in files:
        beside = path.resolve().parent.parent / FOLDERS["iterater-doc"] / path.name
        if beside.is_file():
            tables += read_file(beside)
    return tables


def _each(raw: RawCorpus, tables: Sequence[Table], make: Callable[[Record, Table], Revision]) -> int:
    raw.splits_seen = [table.split for table in tables if table.split]
    for table in tables:
        raw.guesses += [f"{table.name}: {guess}" for guess in table.guesses]
        for number, record in table.records:
            try:
                if isinstance(record, BadRow):
                    raise record
                row = make(record, table)
            except BadRow as error:
                raw.defects.append(Defect(table.name, number, str(error)))
                continue
            row.id = f"{table.split or table.name}-{number}"
            row.split = table.split
            raw.rows.append(row)
    return len(raw.rows)


def _sentence(record: Record, table: Table, context: Context) -> Revision:
    before, after = pair_of(record, "before_sent", "after_sent")
    label = text_of(record, "labels")
    _known([label])
    around = context(table.split, record, before)
    return Revision("", _doc_id(record), before, after, [label], "", *around)


def _document(record: Record, table: Table) -> Revision:
    before, after = pair_of(record, "before_revision", "after_revision")
    labels = sorted({text_of(edit, "major_intent") for edit in _edits(record)})
    if not labels:
        raise BadRow("the field 'edit_actions' lists no edit")
    _known(labels)
    return Revision("", _doc_id(record), before, after, labels)


def _known(labels: Sequence[str]) -> None:
    for label in labels:
        if label not in (*INTENTIONS, OTHERS):
            raise BadRow(f"unknown intention '{short(label)}'")


def _doc_id(record: Record) -> str:
    value = record.get("doc_id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not (name := text_of(record, "doc_id")):
        raise BadRow("the field 'doc_id' is empty")
    return name


def _edits(record: Record) -> list[Record]:
    edits = record.get("edit_actions")
    if not isinstance(edits, list) or not all(isinstance(edit, dict) for edit in edits):
        raise BadRow("the field 'edit_actions' is no list of edits")
    return edits


def _inconsistent(record: Record) -> str:
    """Why the edits of a document do not lead from `before_revision` to `after_revision`, or ""."""
    try:
        before, after = pair_of(record, "before_revision", "after_revision")
        edits = [_span(edit, len(before)) for edit in _edits(record)]
    except BadRow:
        return ""  # reported as a malformed row
    if None in edits:
        return "an edit has offsets outside the text"
    result, end = before, len(before)
    for start, stop, text in sorted(edits, key=lambda edit: edit[:2], reverse=True):  # type: ignore[index]
        if stop > end:
            return f"two edits overlap at character {end}"
        result, end = result[:start] + text + result[stop:], start
    # The corpus doubles spaces around inserted words, so white space is not compared.
    return "" if fold(result) == fold(after) else "the edits applied by offset do not give after_revision"


def _span(edit: Record, length: int) -> tuple[int, int, str] | None:
    start, stop, text = edit.get("start_char_pos"), edit.get("end_char_pos"), edit.get("after")
    if not (type(start) is int and type(stop) is int and isinstance(text, str | None)):
        return None
    return (start, stop, text or "") if 0 <= start <= stop <= length else None


def _place(record: Record) -> tuple[str, str]:
    """Which version of which document a record belongs to; "" for what names none."""
    values = record.get("doc_id"), record.get("revision_depth")
    document, depth = (str(value) if isinstance(value, int | str) else "" for value in values)
    return document, depth


def _contexts(documents: Sequence[Table]) -> Context:
    """A function (split, record, sentence) -> (sentence in front, sentence behind), "" where unknown."""
    texts: dict[tuple[str, str, str], Record] = {}
    for table in documents:
        for _, record in table.records:
            if isinstance(record, dict) and isinstance(record.get("before_revision"), str):
                texts[(table.split, *_place(record))] = record

    def around(split: str, record: Record, sentence: str) -> tuple[str, str]:
        document = texts.get((split, *_place(record)))
        if document is None or not sentence:
            return "", ""
        text: str = document["before_revision"]
        if text.count(sentence) != 1:  # twice in the document: which one was edited is not known
            return "", ""
        start = text.index(sentence)
        stop = start + len(sentence)
        places = document.get("sents_char_pos")
        starts = [p for p in places if type(p) is int] if isinstance(places, list) else []
        first = max((p for p in starts if p < start), default=start)
        last = min((p for p in starts if p > stop), default=len(text))
        return text[first:start], text[stop:last]

    return around
