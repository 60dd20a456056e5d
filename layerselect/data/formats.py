"""The formats that `load_corpus` knows, and how a format is seen from the files.

A format is one `Format` object here and one file that reads it; nothing else knows its name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import argrevision, argrewrite, arxivedits, demo, generic, hub, iterater, peek
from .file_bytes import is_there, local_path, shown
from .schema import CorpusError, RawCorpus
from .table import short
from .tables import READERS, Table, read_tables

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What a loader may be told: column names of the generic loader, the seed of the demo corpus."""

    columns: generic.Columns = field(default_factory=generic.Columns)
    seed: int = 0


@dataclass(frozen=True)
class Format:
    """How one corpus format is read.

    Attributes:
        read: path (None for a bare name), options -> rows.
        seen: whether a path holds this format; None where it cannot be seen from the files.
        bare: the name alone, without a path, is enough.
    """

    read: Callable[[Path | None, Options], RawCorpus]
    seen: Callable[[Path], bool] | None = None
    bare: bool = False


def resolve(source: str | Path, *, columns_named: bool = False) -> Callable[[Options], RawCorpus]:
    """Find the format of `source`; returns the function that reads it.

    Args:
        source: NAME, NAME:PATH, a path, or a hub id (OWNER/NAME).
        columns_named: the caller names columns, so a path is read by the generic loader.

    Raises:
        CorpusError: no such file or name, or a name that needs a path.
    """
    text = str(source)
    name, colon, rest = text.partition(":")
    if name in FORMATS and not isinstance(source, Path):
        chosen = FORMATS[name]
        if name == "hub" and rest:
            return lambda options: _read_hub(rest, options)
        if colon and rest:
            path = _existing(rest)
            return lambda options: chosen.read(path, options)
        if not chosen.bare:
            raise CorpusError(f"'{name}' needs a place to read from: give {name}:PATH")
        return lambda options: chosen.read(None, options)
    path = local_path(text)
    if not is_there(path):
        if _looks_like_hub_id(text):
            return lambda options: _read_hub(text, options)
        raise CorpusError(
            f"there is no file or folder {shown(text)}, and no corpus of that name: "
            f"give a path, NAME:PATH, OWNER/NAME of a hub set, or one of {', '.join(bare_names())}"
        )
    seen = [] if columns_named else [known for known in FORMATS.values() if known.seen and known.seen(path)]
    chosen = seen[0] if seen else FORMATS["generic"]
    return lambda options: chosen.read(path, options)


def bare_names() -> list[str]:
    """Names that can be given without a path."""
    return [name for name, known in FORMATS.items() if known.bare]


def _existing(text: str) -> Path:
    path = local_path(text)
    if not is_there(path):
        raise CorpusError(f"there is no file or folder {shown(path)}: check the path")
    return path


def _looks_like_hub_id(text: str) -> bool:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", text) or Path(text).suffix.lower() in READERS:
        return False
    return not is_there(Path(text).parent)


def _iterater_folder(path: Path, level: str) -> Path:
    """The level's own folder, given that folder, one above it, or a file of it."""
    below = path / iterater.FOLDERS[level]
    return below if below.is_dir() else path


def _read_iterater_sent(path: Path | None, options: Options) -> RawCorpus:
    if path is None:
        return _read_hub(iterater.HUB_IDS["iterater-sent"], options)
    folder = _iterater_folder(path, "iterater-sent")
    tables = read_tables(folder)
    _require_tables(tables, iterater.is_sentence_table, path, "before_sent, after_sent, labels, doc_id")
    return iterater.read_sentences(tables, iterater.document_files(folder))


def _read_iterater_doc(path: Path | None, options: Options) -> RawCorpus:
    if path is None:
        return _read_hub(iterater.HUB_IDS["iterater-doc"], options)
    tables = read_tables(_iterater_folder(path, "iterater-doc"))
    wanted = "before_revision, after_revision, edit_actions, doc_id"
    _require_tables(tables, iterater.is_document_table, path, wanted)
    return iterater.read_documents(tables)


def _require_tables(tables: list[Table], test: Callable[[list[str]], bool], path: Path, wanted: str) -> None:
    for table in tables:
        if not test(table.columns):
            raise CorpusError(
                f"{table.name} in {shown(path)} has not the fields {wanted} but "
                f"{short(', '.join(table.columns) or 'none')}: check the path or name another format"
            )


def _read_hub(name: str, options: Options) -> RawCorpus:
    tables = hub.read_hub(name)
    columns = tables[0].columns
    if not options.columns.named and iterater.is_sentence_table(columns):
        raw = iterater.read_sentences(tables, _hub_documents(name))
    elif not options.columns.named and iterater.is_document_table(columns):
        raw = iterater.read_documents(tables)
    else:
        raw = generic.read_revision_tables(tables, options.columns, name)
    raw.name = name
    return raw


def _hub_documents(name: str) -> list[Table]:
    """The document-level set in which the sentences of the set `name` stand; none if it cannot be read."""
    if name != iterater.HUB_IDS["iterater-sent"]:
        return []
    try:
        return hub.read_hub(iterater.HUB_IDS["iterater-doc"])
    except CorpusError as error:
        log.warning("the sentences around the revisions stay empty: %s", error)
        return []


def _read_generic(path: Path | None, options: Options) -> RawCorpus:
    assert path is not None  # not bare
    tables = read_tables(path, options.columns.sides)
    return generic.read_revision_tables(tables, options.columns, shown(path.name))


def _read_argrewrite(path: Path | None, options: Options) -> RawCorpus:
    assert path is not None  # not bare
    return argrewrite.read_argrewrite(path)


def _read_argrevision(path: Path | None, options: Options) -> RawCorpus:
    assert path is not None  # not bare
    return argrevision.read_argrevision(path)


def _read_arxivedits(path: Path | None, options: Options) -> RawCorpus:
    assert path is not None  # not bare
    return arxivedits.read_arxivedits(path)


def _needs_name(path: Path | None, options: Options) -> RawCorpus:
    raise CorpusError("'hub' needs the id of a set: give hub:OWNER/NAME")


def _read_demo(path: Path | None, options: Options) -> RawCorpus:
    return demo.make_demo(seed=options.seed)


FORMATS: dict[str, Format] = {
    "demo": Format(_read_demo, bare=True),
    "iterater-sent": Format(
        _read_iterater_sent,
        lambda path: (
            (path / iterater.FOLDERS["iterater-sent"]).is_dir() or iterater.is_sentence_table(peek.fields(path))
        ),
        bare=True,
    ),
    "iterater-doc": Format(
        _read_iterater_doc,
        lambda path: (
            (path / iterater.FOLDERS["iterater-doc"]).is_dir() or iterater.is_document_table(peek.fields(path))
        ),
        bare=True,
    ),
    "argrewrite": Format(_read_argrewrite, lambda path: argrewrite.dataset_folder(path) is not None),
    "argrevision": Format(_read_argrevision, argrevision.is_seen),
    "arxivedits": Format(_read_arxivedits, lambda path: arxivedits.edits_folder(path) is not None),
    "generic": Format(_read_generic),
    "hub": Format(_needs_name),
}
"""Every format, in the order in which a path is tried; `generic` reads what no other format claims."""
