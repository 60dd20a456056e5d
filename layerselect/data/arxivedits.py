"""arXivEdits (Jiang, Xu & Stevens, EMNLP 2022, arXiv 2210.15067): sentences of papers, as two versions have them.

The release (chaojiang06/arXivEdits) holds, for each of train, dev and test:

* `data/edits/<split>.json`, an object of 1,000 sentence pairs in all, each with `sentence-1`, `sentence-2`,
  `arxiv-id`, `sentence-1-level` and `sentence-2-level` (the versions) and `edits-combination-0`, an object of edits
  {`type`, `intention`, `sentence-1-token-indices`, `sentence-2-token-indices`}. `edits-combination-1` and `-2` are
  other ways to cut the same change into edits; the authors' classifier reads the first only, and so does this loader.
* `data/sentence_alignment/<split>.json`, an object of papers: for each version, "1", "2", ..., the sentences by their
  id.

A revision unit is a sentence pair; its intentions are those of its edits. The paper is the document.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import peek
from .schema import BadRow, CorpusError, Defect, RawCorpus, Revision, fold, pair_of, text_of
from .splits import split_name
from .table import short
from .tables import decode, find_files, read_bytes

# The corpus's spelling -> ours: one or two words, since they stand in prompts. ("spefific" is the corpus's.)
NAMES = {
    "Content": "content",
    "Format": "format",
    "Improve-grammar-Typo": "grammar",
    "Lang-accurate-spefific": "accuracy",
    "Lang-improve-readability-Simplify": "readability",
    "Lang-professional-Improve-style": "style",
    "Lang-other": "other language",
}
_LANGUAGE = ("accuracy", "readability", "style", "other language")
LABEL_SETS: Mapping[str, Mapping[str, str] | None] = {
    "default": {name: name for name in NAMES.values() if name != "other language"},
    "all": {name: name for name in NAMES.values()},
    # The four classes that the authors report besides.
    "coarse": {name: "language" if name in _LANGUAGE else name for name in NAMES.values()},
}
EDITS, ALIGNMENT = "edits", "sentence_alignment"
_SIDES = ("sentence-1", "sentence-2")
_CHOSEN = "edits-combination-0"
_MARKS = (f'"{_CHOSEN}"', '"sentence-1"')

Context = Callable[[Mapping[str, Any], str], tuple[str, str]]


def edits_folder(path: Path) -> Path | None:
    """The folder or the file with the edits: given that, a folder above it (`data`, or the whole release), or None."""
    if path.is_file():
        return path if _is_edits(path) else None
    for folder in (path, path / EDITS, path / "data" / EDITS):
        try:
            if folder.is_dir() and any(map(_is_edits, find_files(folder))):
                return folder
        except CorpusError:
            continue
    return None


def read_arxivedits(path: Path) -> RawCorpus:
    """Every sentence pair that has an annotated edit.

    Raises:
        CorpusError: no file of edits there, or one that is no JSON.
    """
    found = edits_folder(path)
    if found is None:
        raise CorpusError(
            f"{path} holds no edits of arXivEdits: give the folder in which data/edits/train.json and the like lie"
        )
    raw = RawCorpus("arxivedits", label_sets=LABEL_SETS)
    unedited = same = 0
    documents = False
    for file in find_files(found) if found.is_dir() else [found]:
        split = split_name(file.stem) or ""
        if split:
            raw.splits_seen.append(split)
        pairs = _object(file)
        context, there = _contexts(file, pairs, raw)
        documents |= there
        for number, (key, record) in enumerate(pairs.items(), start=1):
            try:
                row = _revision(record, context)
                if (odd := _misplaced(record)) is not None:
                    raw.defects.append(Defect(file.name, number, odd, kept=True))
            except BadRow as error:
                raw.defects.append(Defect(file.name, number, f"pair {short(key)}: {error}"))
                continue
            if fold(row.before) == fold(row.after):
                same += 1
            elif not row.intentions:
                unedited += 1
            else:
                row.id, row.split = f"{split or file.stem}-{key}", split
                raw.rows.append(row)
    if unedited:
        raw.notes.append(f"{unedited} sentence pairs without an annotated edit were left out")
    if same:
        raw.notes.append(f"{same} pairs whose sides are equal after white space is folded were dropped")
    if documents:
        known = sum(bool(row.before_context or row.after_context) for row in raw.rows)
        raw.notes.append(f"the sentences around were found for {known} of {len(raw.rows)} rows")
    return raw


def _is_edits(path: Path) -> bool:
    text = peek.head(path) if path.suffix.lower() == ".json" else ""
    return all(mark in text for mark in _MARKS)


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(decode(read_bytes(file), str(file)))
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{file} is no JSON ({str(error)[:120]}): fetch the file again") from error
    if not isinstance(found, dict):
        raise CorpusError(f"{file} holds no object of sentence pairs: check the path or name another format")
    return found


def _revision(record: Any, context: Context) -> Revision:
    if not isinstance(record, dict):
        raise BadRow("no object")
    before, after = pair_of(record, *_SIDES)
    if not (paper := text_of(record, "arxiv-id")):
        raise BadRow("the field 'arxiv-id' is empty")
    intentions = sorted({_intention(edit) for edit in _edits(record)})
    return Revision("", paper, before, after, intentions, "", *context(record, before))


def _edits(record: Mapping[str, Any]) -> list[Any]:
    edits = record.get(_CHOSEN)
    if not isinstance(edits, dict):
        raise BadRow(f"the field '{_CHOSEN}' is no object of edits")
    return list(edits.values())


def _intention(edit: Any) -> str:
    name = edit.get("intention") if isinstance(edit, dict) else None
    if not isinstance(name, str) or name not in NAMES:
        raise BadRow(f"an edit has the unknown intention '{short(str(name))}'")
    return NAMES[name]


def _misplaced(record: Mapping[str, Any]) -> str | None:
    """Whether an edit lies outside its sentence, which tells that sentence and edits do not belong together."""
    for edit in _edits(record):
        for side in _SIDES:
            place = edit.get(f"{side}-token-indices")
            if place is None:
                continue  # nothing of this sentence: an insertion or a deletion
            whole = isinstance(place, list) and len(place) == 2 and all(type(n) is int for n in place)
            if not whole or not 0 <= place[0] < place[1] <= len(record[side].split()):
                return f"an edit has the token positions {short(str(place))} in {side}, which are not in it"
    return None


def _contexts(file: Path, pairs: Mapping[str, Any], raw: RawCorpus) -> tuple[Context, bool]:
    """How the sentences around are looked up, and whether the papers lie beside the edits at all."""
    beside = file.resolve().parent.parent / ALIGNMENT / file.name
    if not beside.is_file():
        return lambda record, sentence: ("", ""), False
    try:
        papers = _object(beside)
    except CorpusError as error:  # the files are large, and some copies hold a pointer in their place
        raw.defects.append(Defect(f"{ALIGNMENT}/{file.name}", 0, str(error), kept=True))
        return lambda record, sentence: ("", ""), False
    wanted = {
        (r.get("arxiv-id"), str(r.get("sentence-1-level")))
        for r in pairs.values()
        if isinstance(r, dict) and isinstance(r.get("arxiv-id"), str)
    }
    versions: dict[tuple[Any, str], list[str]] = {}
    for paper, version in wanted:
        sentences = papers.get(paper, {})
        sentences = sentences.get(version) if isinstance(sentences, dict) else None
        if isinstance(sentences, dict):
            versions[paper, version] = [text for text in sentences.values() if isinstance(text, str)]

    def around(record: Mapping[str, Any], sentence: str) -> tuple[str, str]:
        texts = versions.get((record["arxiv-id"], str(record.get("sentence-1-level"))), [])
        # Pairs are tokenized, papers are not: white space is not compared.
        places = [number for number, text in enumerate(texts) if _packed(text) == _packed(sentence)]
        if len(places) != 1 or not _packed(sentence):  # twice in the paper: which one was edited is not known
            return "", ""
        before, after = places[0] - 1, places[0] + 1
        return texts[before] if before >= 0 else "", texts[after] if after < len(texts) else ""

    return around, True


def _packed(text: str) -> str:
    return "".join(text.split())
