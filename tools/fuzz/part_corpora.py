"""Corpora that nobody meant: files of every type with broken bytes, broken insides, odd cells and odd shapes."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from layerselect.data import describe, load_corpus, read_revisions

from .broken_files import broken_inside, broken_json, broken_table, dumps, odd_cells, packed_files
from .mutate import break_bytes, break_text, break_value
from .right_corpora import ARGREVISION, ARXIVEDITS, DOCUMENTS, ITERATER, saved_dataset

Case = tuple[str, Callable[[], Any]]


def cases(rng: random.Random) -> Iterator[Case]:
    """Without end: one broken file, folder or path a case."""
    packed = {name: list(packed_files(name)) for name in ("book.xlsx", "set.parquet", "notes.xlsx", "argrewrite.xlsx")}
    saved = saved_dataset()
    while True:
        match rng.randrange(9):
            case 0:
                yield _file(rng, broken_json(rng))
            case 1 | 2:
                yield _file(rng, broken_table(rng))
            case 3:
                name = rng.choice(list(packed))
                yield _file(rng, (name, break_bytes(rng.choice(packed[name]), rng)))
            case 4:
                yield _file(
                    rng, ("inside.xlsx", broken_inside(rng.choice(packed["book.xlsx"] + packed["notes.xlsx"]), rng))
                )
            case 5:
                yield _file(rng, odd_cells(rng))
            case 6:
                yield _folder(rng, saved)
            case 7:
                yield _known(rng, packed["argrewrite.xlsx"][0])
            case 8:
                yield _path(rng)


def _file(rng: random.Random, made: tuple[str, bytes]) -> Case:
    name, content = made
    path = Path(name).resolve()
    how = rng.choice(("load", "load", "describe", "columns", "revisions", "official"))

    def run() -> Any:
        path.write_bytes(content)
        return _read(path, how)

    return f"{how} {name}", run


def _read(path: Path, how: str) -> Any:
    match how:
        case "describe":
            found = describe(load_corpus(path))
            return json.dumps(found.as_dict(), ensure_ascii=False).encode()
        case "columns":
            return load_corpus(path, before="before", after="after", label="doc_id", label_delimiter=",")
        case "revisions":
            rows = read_revisions(path)
            return json.dumps(rows, ensure_ascii=False).encode()  # what is read can be written
        case "official":
            return load_corpus(path, splits="official", labels="all")
    return load_corpus(path)


def _folder(rng: random.Random, saved: dict[str, bytes]) -> Case:
    files = dict(saved)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(files))
        if name.endswith(".json") and rng.random() < 0.7:
            files[name] = dumps(break_value(json.loads(saved[name]), rng)).encode("utf-8", "surrogatepass")
        else:
            files[name] = break_bytes(files[name], rng)
    if rng.random() < 0.3:
        del files[rng.choice(list(files))]
    folder = Path("folder").resolve()

    def run() -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return load_corpus(folder)

    return "saved folder", run


def _known(rng: random.Random, workbook: bytes) -> Case:
    """Corpora in their own formats, named or found by their files."""
    kind = rng.choice(("arxivedits", "argrewrite", "argrevision", "iterater-doc", "iterater-sent"))
    files: dict[str, bytes]
    if kind == "argrewrite":
        place = "dataset/annotations/A/12/Annotation_2018argrewrite_1_NEW.txt.xlsx"
        files = {place: broken_inside(workbook, rng) if rng.random() < 0.5 else break_bytes(workbook, rng)}
    else:
        value = {
            "arxivedits": ARXIVEDITS,
            "argrevision": ARGREVISION,
            "iterater-doc": DOCUMENTS,
            "iterater-sent": ITERATER,
        }[kind]
        value = break_value(value, rng)
        text = dumps(value) if kind == "arxivedits" or not isinstance(value, list) else "\n".join(map(dumps, value))
        files = {
            "data/edits/train.json" if kind == "arxivedits" else "train.json": text.encode("utf-8", "surrogatepass")
        }
    folder = Path("known").resolve()
    named = rng.random() < 0.5

    def run() -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return describe(load_corpus(f"{kind}:{folder}" if named else folder))

    return f"{kind}, {'named' if named else 'found'}", run


_PATHS = (
    "~nobody",
    "~nobody/a.csv",
    "a\0b",
    "",
    " ",
    ".",
    "..",
    "/",
    "/dev/null",
    "/dev/zero",
    "/proc/self/mem",
    "generic:",
    "generic:~nobody/x",
    "hub:",
    "hub:a",
    "a" * 5000,
    "a/" * 2000,
    "nowhere.csv",
    "a/b.csv",
    "./a/b",
    "\ud800.csv",
    "iterater-sent:nowhere",
    "argrewrite:/dev/null",
    "line\nbreak.csv",
    "[/b].jsonl",
    "generic:/dev/full",
    "demo:",
    "arxivedits:.",
    "file:///etc/passwd",
    "https://example.org/a.csv",
    "-",
    "a:b:c",
)


def _path(rng: random.Random) -> Case:
    path = rng.choice(_PATHS)
    if rng.random() < 0.3:
        path = break_text(path, rng)
    reads = rng.random() < 0.3 and path.strip() != "-"
    return f"path {path[:30]!a}", lambda: read_revisions(path) if reads else load_corpus(path)
