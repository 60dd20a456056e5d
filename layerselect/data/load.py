"""`load_corpus`: from a name, a path or a hub id to a `Corpus` with splits that share no document."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .formats import Options, resolve
from .generic import Columns
from .label_names import doubtful_labels
from .schema import LEFT_OUT, SPLITS, Corpus, CorpusError, RawCorpus, build_corpus
from .sizes import Fold, TrainSize
from .splits import document_splits, fold_splits, part_of_training, shared_documents
from .table import short

log = logging.getLogger(__name__)


def load_corpus(
    source: str | Path,
    *,
    splits: Literal["document", "official"] = "document",
    strict: bool = False,
    seed: int = 0,
    before: str | None = None,
    after: str | None = None,
    label: str | None = None,
    doc_id: str | None = None,
    label_delimiter: str | None = None,
    labels: str = "default",
    multi: Literal["keep", "drop"] = "keep",
    split_fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    fold: str | None = None,
    train_size: str | None = None,
) -> Corpus:
    """Load a revision corpus.

    Args:
        source: "demo"; "iterater-sent" or "iterater-doc" (from the hub); a path, whose format is seen from
            the files; NAME:PATH, which forces a format (iterater-sent, iterater-doc, argrewrite, argrevision,
            arxivedits, generic); or the id of a hub set, OWNER/NAME. A local path wins over a hub id of the same
            spelling, a name over both (write ./demo for a folder called demo).
        splits: "document": all files together, split again so that no document stands in two splits.
            "official": the corpus's own splits, with a warning that counts the documents they share.
        strict: raise on the first malformed row instead of skipping and reporting it.
        seed: seed of the document splits, and of the edits of the demo corpus.
        before, after, label, doc_id: column names of a table of your own; naming one turns off the
            recognition of known formats. Defaults: "before", "after", "intentions", "labels", "label" or
            "intention", and "doc_id" where there is such a column.
        label_delimiter: separates several labels in one cell; without it a cell is one label.
        labels: the label set. IteraTeR: "default" (five intentions) or "all" (with "others"). ArgRewrite:
            "purpose" (nine, the default) or "surface-content" (two). ArgRevision: "default" (six purposes) or "all"
            (with the further ones of its scheme). arXivEdits: "default" (six), "all" (with "other language") or
            "coarse" (four).
        multi: rows with several labels: "keep" them, or "drop" them (as single-label papers do).
        split_fractions: shares of train, validation and test for document splits; 0 leaves a split out.
        fold: "I/K" cuts all rows into K folds by document and tests the I-th. A tenth of the other folds is the
            validation split and the rest trains. It takes the place of `split_fractions`.
        train_size: as much of the training split trains, in whole documents: a number of rows, "500", or a share,
            "10%". A smaller part is contained in a larger one.

    Raises:
        CorpusError: a file, column, label set, option or split cannot be used; with `strict`, any defect.
        LayerSelectError: a package that reads this format is not installed.
    """
    _one_of("splits", splits, ("document", "official"))
    _one_of("multi", multi, ("keep", "drop"))
    tested = Fold.parse(fold) if fold is not None else None
    size = TrainSize.parse(train_size) if train_size is not None else None
    if tested and splits == "official":
        raise CorpusError(
            f"fold {tested} is cut by document from all rows, which splits='official' forbids: leave out one of them"
        )
    columns = Columns(before, after, label, doc_id, label_delimiter)
    read = resolve(source, columns_named=columns.named)
    raw = read(Options(columns, seed))
    for guess in raw.guesses:
        log.warning("%s", guess)
    raw.notes[:0] = raw.guesses
    if raw.defects:
        _report_defects(raw, strict)
    _map_labels(raw, labels)
    if raw.label_sets[labels] is None:  # names that somebody has typed
        for note in doubtful_labels(raw.rows, parted=label_delimiter is not None):
            raw.notes.append(note)
            log.warning("%s: %s", raw.name, note)
    if multi == "drop":
        _drop_multi(raw)
    if not raw.rows:
        reason = f"; the first problem is {raw.defects[0]}" if raw.defects else ""
        raise CorpusError(f"{raw.name} has no usable row{reason}")
    if splits == "official":
        chosen = _official(raw)
    else:
        doc_ids, intentions = [row.doc_id for row in raw.rows], [row.intentions for row in raw.rows]
        if tested:
            chosen = fold_splits(doc_ids, intentions, tested, seed=seed)
        else:
            chosen = document_splits(doc_ids, intentions, fractions=split_fractions, seed=seed)
        if own := _by_split(raw):
            shared = "; ".join(_leaks(own).values()) or "no document stands in two of them"
            raw.notes.append(
                f"split again by document: the corpus's own splits ({', '.join(own)}) are not used; {shared}"
            )
    if size:
        chosen = _smaller_training(raw, chosen, size, seed)
    _note_missing_labels(raw, chosen)
    return build_corpus(raw, chosen)


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise CorpusError(f"{option}={short(str(value))!r} is unknown: give one of {', '.join(allowed)}")


def _report_defects(raw: RawCorpus, strict: bool) -> None:
    skipped = sum(not defect.kept for defect in raw.defects)
    if strict:
        raise CorpusError(
            f"{raw.name} has {len(raw.defects)} defective row(s), the first is {raw.defects[0]}; "
            "mend them, or load without strict to skip malformed rows"
        )
    log.warning(
        "%s: %d malformed row(s) skipped, %d kept with a defect; the first is %s",
        raw.name,
        skipped,
        len(raw.defects) - skipped,
        raw.defects[0],
    )


def _map_labels(raw: RawCorpus, wanted: str) -> None:
    if wanted not in raw.label_sets:
        raise CorpusError(f"{raw.name} has no label set '{short(wanted)}': give one of {', '.join(raw.label_sets)}")
    mapping = raw.label_sets[wanted]
    if mapping is None:
        return
    kept, dropped = [], {}
    for row in raw.rows:
        gone = [name for name in row.intentions if name not in mapping]
        row.intentions = sorted({mapping[name] for name in row.intentions if name in mapping})
        if row.intentions:
            kept.append(row)
        for name in gone:
            dropped[name] = dropped.get(name, 0) + 1
    if dropped:
        names = ", ".join(f"'{name}' ({count} rows)" for name, count in sorted(dropped.items()))
        lost = len(raw.rows) - len(kept)
        raw.notes.append(f"not in the label set '{wanted}': {names}; {lost} rows had no other label and were dropped")
    raw.rows = kept


def _drop_multi(raw: RawCorpus) -> None:
    kept = [row for row in raw.rows if len(row.intentions) == 1]
    if lost := len(raw.rows) - len(kept):
        raw.notes.append(f"{lost} rows with several labels were dropped")
    raw.rows = kept


def _official(raw: RawCorpus) -> list[str]:
    names = {row.split for row in raw.rows}
    if unknown := sorted(name for name in names if name and name not in SPLITS):
        raise CorpusError(f"{raw.name} has a split '{short(unknown[0])}': name splits train, validation (dev) or test")
    if "" in names:
        which = "some rows without one" if len(names) > 1 else "none"
        raise CorpusError(
            f"{raw.name} has no official splits ({which}): name the files train, dev and test, add a column "
            "'split', or ask for splits by document"
        )
    empty = [name for name in raw.splits_seen if name not in names]
    if empty:
        raise CorpusError(f"the official split '{empty[0]}' of {raw.name} has no usable row")
    if "train" not in names:
        raise CorpusError(f"{raw.name} has no official train split, only {_few(sorted(names))}")
    for (_, second), note in _leaks(_by_split(raw)).items():
        raw.notes.append(note)
        log.warning("%s: %s, so scores on %s are too good; splits by document avoid it", raw.name, note, second)
    return [row.split for row in raw.rows]


def _smaller_training(raw: RawCorpus, chosen: Sequence[str], size: TrainSize, seed: int) -> list[str]:
    """The splits when only a part of the training split trains; the rest of it stands in none."""
    doc_ids = [row.doc_id for row, split in zip(raw.rows, chosen, strict=True) if split == "train"]
    if size.rows(len(doc_ids)) > len(doc_ids):
        raise CorpusError(
            f"the training split of {raw.name} has {len(doc_ids):,} rows, fewer than the {size} that are to train: "
            "ask for at most as many"
        )
    stays = part_of_training(doc_ids, size, seed=seed)
    documents = len({document for document, kept in zip(doc_ids, stays, strict=True) if kept})
    raw.notes.append(
        f"{sum(stays)} of {len(doc_ids)} rows of train are used, those of {documents} of {len(set(doc_ids))} documents"
    )
    kept = iter(stays)
    return [split if split != "train" or next(kept) else LEFT_OUT for split in chosen]


def _by_split(raw: RawCorpus) -> dict[str, list[str]]:
    """Official split -> document of each of its rows, in the usual order of splits."""
    found: dict[str, list[str]] = {name: [] for name in SPLITS}
    for row in raw.rows:
        if row.split in found:
            found[row.split].append(row.doc_id)
    return {name: doc_ids for name, doc_ids in found.items() if doc_ids}


def _leaks(by_split: dict[str, list[str]]) -> dict[tuple[str, str], str]:
    """A sentence for each pair of splits that shares documents."""
    return {
        (first, second): f"{count} {'documents stand' if count > 1 else 'document stands'} in {first} and {second}"
        for (first, second), count in shared_documents(by_split).items()
    }


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return ", ".join(map(short, names[:20])) + more


def _note_missing_labels(raw: RawCorpus, chosen: list[str]) -> None:
    present: dict[str, set[str]] = {}
    for row, split in zip(raw.rows, chosen, strict=True):
        if split != LEFT_OUT:
            present.setdefault(split, set()).update(row.intentions)
    everything = set().union(*present.values())
    for split in SPLITS:
        if split in present and (absent := sorted(everything - present[split])):
            raw.notes.append(f"no row of {split} has the label {_few(absent)}")
