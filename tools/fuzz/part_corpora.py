"""Corpora that nobody meant: files of every type with broken bytes, broken insides, odd cells and odd shapes."""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import openpyxl
import pandas
from layerselect.data import describe, load_corpus, read_revisions

from .mutate import ODD_TEXTS, ODD_VALUES, break_bytes, break_text, break_value

ROWS: list[dict[str, Any]] = [
    {
        "doc_id": f"d{i % 7}",
        "before": f"It are so {i}.",
        "after": f"It is so {i}.",
        "label": ("style", "clarity")[i % 2],
    }
    for i in range(24)
]
ITERATER = [
    {
        "before_sent": f"It are {i}.",
        "after_sent": f"It is {i}.",
        "labels": "fluency",
        "doc_id": str(i % 5),
        "revision_depth": 1,
    }
    for i in range(12)
]
DOCUMENTS = [
    {
        "doc_id": str(i),
        "revision_depth": 1,
        "before_revision": f"It are {i}.",
        "after_revision": f"It is {i}.",
        "edit_actions": [
            {
                "type": "R",
                "before": "are",
                "after": "is",
                "start_char_pos": 3,
                "end_char_pos": 6,
                "major_intent": "fluency",
            }
        ],
        "sents_char_pos": [0],
    }
    for i in range(8)
]
ARGREVISION = [
    {
        "essay_ids": i % 4,
        "old_sentence_ids": i,
        "new_sentence_ids": i,
        "old_sentences": f"A {i}.",
        "new_sentences": f"B {i}.",
        "purpose_labels": "relevant",
    }
    for i in range(12)
]
ARXIVEDITS = {
    str(i): {
        "sentence-1": f"It are {i} .",
        "sentence-2": f"It is {i} .",
        "arxiv-id": f"p{i % 4}",
        "sentence-1-level": "1",
        "edits-combination-0": {
            "0": {"type": "Substitute", "intention": "Content", "sentence-1-token-indices": [1, 2]}
        },
    }
    for i in range(10)
}
SETS = (ROWS, ITERATER, DOCUMENTS, ARGREVISION)
SEPARATORS = (",", ";", "\t", "|")

Case = tuple[str, Callable[[], Any]]


def cases(rng: random.Random) -> Iterator[Case]:
    """Without end: one broken file, folder or path a case."""
    packed = {name: list(_packed(name)) for name in ("book.xlsx", "set.parquet", "notes.xlsx", "argrewrite.xlsx")}
    saved = _saved()
    while True:
        match rng.randrange(9):
            case 0:
                yield _file(rng, _json(rng))
            case 1 | 2:
                yield _file(rng, _separated(rng))
            case 3:
                name = rng.choice(list(packed))
                yield _file(rng, (name, break_bytes(rng.choice(packed[name]), rng)))
            case 4:
                yield _file(
                    rng, ("inside.xlsx", _broken_inside(rng.choice(packed["book.xlsx"] + packed["notes.xlsx"]), rng))
                )
            case 5:
                yield _file(rng, _odd_cells(rng))
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


def _json(rng: random.Random) -> tuple[str, bytes]:
    rows = [break_value(row, rng) if rng.random() < 0.3 else row for row in rng.choice(SETS)]
    dumped = [_dumps(row) for row in rows]
    text = "\n".join(dumped) if rng.random() < 0.6 else "[" + ",\n".join(dumped) + "]"
    if rng.random() < 0.2:
        text = break_text(text, rng)
    if rng.random() < 0.1:
        text = rng.choice(("[", '{"a":', "{}\n", "[],", "9")) * rng.choice((100, 100_000))
    content = (
        text.encode(
            rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "latin-1")),
            "surrogatepass" if rng.random() < 0.5 else "replace",
        )
        if _plain(text)
        else text.encode("utf-8", "surrogatepass")
    )
    return rng.choice(("a.jsonl", "a.json", "train.ndjson")), break_bytes(
        content, rng
    ) if rng.random() < 0.3 else content


def _plain(text: str) -> bool:
    return all(ord(char) < 256 for char in text)


def _dumps(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):
        return "[" * 1500


def _separated(rng: random.Random) -> tuple[str, bytes]:
    separator = rng.choice(SEPARATORS)
    header = list(ROWS[0])
    rows = [header, *([str(row[name]) for name in header] for row in rng.choice((ROWS, ROWS[:3], ROWS * 40)))]
    for _ in range(rng.randrange(4)):
        row = rng.choice(rows)
        place = rng.randrange(len(row))
        row[place] = rng.choice((break_text(row[place], rng), rng.choice(ODD_TEXTS)))
    if rng.random() < 0.2:
        rows.insert(rng.randrange(len(rows)), list(header))
    if rng.random() < 0.2:
        rows[:0] = [["notes"], [""], ["more", "notes"]][: rng.randrange(1, 4)]
    if rng.random() < 0.2:
        rng.choice(rows).extend([""] * rng.choice((1, 3, 20_000)))
    quote = rng.choice((lambda cell: cell, lambda cell: '"' + cell.replace('"', '""') + '"'))
    text = rng.choice(("\n", "\n", "\r\n", "\r")).join(separator.join(map(quote, row)) for row in rows)
    if rng.random() < 0.2:
        text = f"sep={separator}\n{text}"
    content = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        content = text.encode(rng.choice(("utf-16", "utf-16-le", "utf-8-sig", "utf-32", "cp1252")), "replace")
    return rng.choice(("a.csv", "b.tsv")), break_bytes(content, rng) if rng.random() < 0.3 else content


def _packed(name: str) -> Iterator[bytes]:
    frame = pandas.DataFrame(ROWS)
    buffer = io.BytesIO()
    if name == "set.parquet":
        for options in ({}, {"compression": "zstd"}, {"compression": None, "use_dictionary": False}):
            buffer = io.BytesIO()
            frame.assign(tokens=[["a", "b"]] * len(frame)).to_parquet(buffer, **options)
            yield buffer.getvalue()
        return
    if name == "book.xlsx":
        frame.to_excel(buffer, index=False)
    elif name == "notes.xlsx":
        with pandas.ExcelWriter(buffer) as writer:
            pandas.DataFrame({"read": ["me"]}).to_excel(writer, sheet_name="Notes", index=False)
            frame[:16].to_excel(writer, sheet_name="train", index=False)
            frame[16:].to_excel(writer, sheet_name="dev", index=False)
    else:
        book = openpyxl.Workbook()
        book.remove(book.active)
        for title in ("Old Draft", "New Draft"):
            sheet = book.create_sheet(title)
            sheet.append(["Sentence Index", "Sentence Content", "Aligned Index", "Revision Purpose Level 0"])
            for i in range(1, 9):
                sheet.append([i, f"{title} {i}.", str(i), "Evidence"])
        book.save(buffer)
    yield _without_time(buffer.getvalue())


def _without_time(content: bytes) -> bytes:
    """A workbook that does not say when it was made, so that a seed gives the same bytes tomorrow."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w") as new:
        for part in old.namelist():
            if not part.startswith("docProps"):
                new.writestr(zipfile.ZipInfo(part), old.read(part), zipfile.ZIP_DEFLATED)
    return target.getvalue()


_INSIDE = (
    (b'r="2"', b'r="99999999999999"'),
    (b'r="A2"', b'r="ZZZZ2"'),
    (b't="s"', b't="inlineStr"'),
    (b't="inlineStr"', b't="s"'),
    (b"<v>1</v>", b"<v>-5</v>"),
    (b"<v>1</v>", b"<v>" + b"9" * 5000 + b"</v>"),
    (b"<row ", b"<row r='1' "),
    (b"<sheetData>", b"<sheetData>" + b"<row/>" * 200_000),
    (b"<sheetData>", b"<a>" * 50_000),
    (b"worksheets/sheet1", b"../../../etc/passwd"),
    (b"<t>", b"<t>" + b"a" * 20_000_000),
    (b"UTF-8", b"UTF-7"),
    (b"<t>", b"<t>_xD800_"),
    (b"<is>", b"<is><r>"),
    (b"<v>", b"<f>A1+1</f><v>"),
    (b's="1"', b's="999999999999"'),
    (b"<worksheet", b"<!DOCTYPE a><worksheet"),
    (b"visible", b"hidden"),
    (b'sheetId="1"', b'sheetId="x"'),
    (b'name="', b'name="train'),
    (b"sharedStrings.xml", b"sheet1.xml"),
)


def _broken_inside(content: bytes, rng: random.Random) -> bytes:
    """A workbook whose archive is whole and whose parts are not."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        chosen = rng.choice(old.namelist()) if rng.random() < 0.5 else ""
        change = rng.choice(_INSIDE)
        for part in old.namelist():
            data = old.read(part)
            if part == chosen:
                if rng.random() < 0.2:
                    continue
                data = break_bytes(data, rng)
            if not chosen and part.endswith((".xml", ".rels")):
                data = data.replace(*change, rng.choice((1, -1)) if len(change[1]) < 1000 else 1)
            new.writestr(part, data)
    return target.getvalue()


def _odd_cells(rng: random.Random) -> tuple[str, bytes]:
    """Files that are whole and whose cells are odd."""
    rows = [dict(row) for row in rng.choice((ROWS, ROWS[:5]))]
    column = rng.choice((*ROWS[0], "split", "id", "before_context"))
    odd: list[Any] = [
        rng.choice((*ODD_VALUES, rng.randbytes(4), pandas.Timestamp("2024-05-06"), 0.25, True))
        for _ in range(rng.choice((1, 2, 3)))
    ]
    for number, row in enumerate(rows):
        row[column] = odd[number % len(odd)]
    for kind, write in rng.sample(
        [
            ("odd.parquet", lambda frame, buffer: frame.to_parquet(buffer)),
            ("odd.xlsx", lambda frame, buffer: frame.to_excel(buffer, index=False)),
            ("odd.csv", lambda frame, buffer: frame.to_csv(buffer)),
            ("odd.jsonl", lambda frame, buffer: frame.to_json(buffer, orient="records", lines=True)),
        ],
        4,
    ):
        buffer = io.BytesIO()
        # What one writer refuses is tried with the next; they raise what they like of values that they cannot write.
        try:
            write(pandas.DataFrame(rows), buffer)
        except Exception:
            continue
        return kind, buffer.getvalue()
    return "odd.csv", b"before,after,label\n"


def _saved() -> dict[str, bytes]:
    features = datasets.Features(
        {
            "before": datasets.Value("string"),
            "after": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["a", "b"]),
        }
    )
    rows = {"before": [f"x{i}" for i in range(9)], "after": ["y"] * 9, "label": [i % 2 for i in range(9)]}
    found = datasets.Dataset.from_dict(rows, features=features)
    place = Path("saved.once").resolve()
    datasets.DatasetDict({"train": found, "test": found}).save_to_disk(place)
    files = {
        path.relative_to(place).as_posix(): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()
    }
    shutil.rmtree(place)
    return files


def _folder(rng: random.Random, saved: dict[str, bytes]) -> Case:
    files = dict(saved)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(files))
        if name.endswith(".json") and rng.random() < 0.7:
            files[name] = _dumps(break_value(json.loads(saved[name]), rng)).encode("utf-8", "surrogatepass")
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
        files = {place: _broken_inside(workbook, rng) if rng.random() < 0.5 else break_bytes(workbook, rng)}
    else:
        value = {
            "arxivedits": ARXIVEDITS,
            "argrevision": ARGREVISION,
            "iterater-doc": DOCUMENTS,
            "iterater-sent": ITERATER,
        }[kind]
        value = break_value(value, rng)
        text = _dumps(value) if kind == "arxivedits" or not isinstance(value, list) else "\n".join(map(_dumps, value))
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
