"""Files of one type each with something broken in them: JSON, separated values, workbooks, Parquet."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Iterator
from typing import Any

import openpyxl
import pandas

from .mutate import ODD_TEXTS, ODD_VALUES, break_bytes, break_text, break_value
from .right_corpora import ROWS, SETS

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
SEPARATORS = (",", ";", "\t", "|")


def broken_json(rng: random.Random) -> tuple[str, bytes]:
    rows = [break_value(row, rng) if rng.random() < 0.3 else row for row in rng.choice(SETS)]
    dumped = [dumps(row) for row in rows]
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


def dumps(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):
        return "[" * 1500


def broken_table(rng: random.Random) -> tuple[str, bytes]:
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


def packed_files(name: str) -> Iterator[bytes]:
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


def broken_inside(content: bytes, rng: random.Random) -> bytes:
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


def odd_cells(rng: random.Random) -> tuple[str, bytes]:
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
