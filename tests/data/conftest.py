"""Small corpora in their original formats, written by the tests themselves; the real ones where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datasets", reason="the extra 'data' is not installed")

REPOSITORY = Path(__file__).resolve().parents[2]


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    """JSON lines; a string among the records is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def sentence(doc: str, before: str, after: str, label: str, depth: int = 1) -> dict[str, Any]:
    """A row of IteraTeR's sentence files."""
    return {
        "before_sent": before,
        "before_sent_with_intent": f"<{label}> {before}",
        "after_sent": after,
        "labels": label,
        "doc_id": doc,
        "revision_depth": depth,
    }


def document(doc: str, before: str, after: str, edits: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A row of IteraTeR's document files."""
    row = {
        "doc_id": doc,
        "revision_depth": 1,
        "before_revision": before,
        "after_revision": after,
        "edit_actions": edits,
        "sents_char_pos": [0],
    }
    return {**row, **more}


def edit(start: int, stop: int, before: str | None, after: str | None, intent: str) -> dict[str, Any]:
    kind = "A" if before is None else "D" if after is None else "R"
    return {
        "type": kind,
        "before": before,
        "after": after,
        "start_char_pos": start,
        "end_char_pos": stop,
        "major_intent": intent,
        "raw_intents": [intent],
    }


@pytest.fixture
def iterater(tmp_path: Path) -> Path:
    """A folder like iterater_human: five documents, of which d1 stands in both official splits."""
    folder = tmp_path / "iterater_human"
    write_lines(
        folder / "human_sent_level" / "train.json",
        [
            sentence("d1", "Cats sleeps.", "Cats sleep.", "fluency"),
            sentence("d1", " Dogs bark due to the fact that they can.", " Dogs bark because they can.", "clarity"),
            sentence("d2", "It rained.", "It rained , in May.", "meaning-changed"),
            sentence("d3", "Hm.", "", "others"),
            sentence("d3", "So it is.", "It is so.", "style"),
        ],
    )
    write_lines(
        folder / "human_sent_level" / "dev.json",
        [
            sentence("d1", "He left.", "However, he left.", "coherence", depth=2),
            sentence("d5", "A apple.", "An apple.", "fluency"),
        ],
    )
    # "Cats sleeps." is 12 characters long; the second sentence starts with its space, as in the corpus.
    text = "Cats sleeps. Dogs bark due to the fact that they can. Birds sing."
    after = "Cats sleep. Dogs bark  because they can. Birds sing."
    write_lines(
        folder / "human_doc_level" / "train.json",
        [
            document(
                "d1",
                text,
                after,
                [
                    edit(5, 11, "sleeps", "sleep", "fluency"),
                    edit(23, 43, "due to the fact that", "because", "clarity"),
                ],
                sents_char_pos=[0, 12, 53],
                domain="wiki",
            ),
            document("d2", "It rained.", "It rained , in May.", [edit(9, 9, None, " , in May", "meaning-changed")]),
            document("d3", "Hm. So.", "So.", [edit(0, 4, "Hm. ", None, "others")]),
            document("d4", "One two.", "One three.", [edit(4, 7, "two", "four", "clarity")]),
        ],
    )
    write_lines(
        folder / "human_doc_level" / "dev.json",
        [document("d5", "A apple.", "An apple.", [edit(0, 1, "A", "An", "fluency"), edit(0, 0, None, "", "others")])],
    )
    return folder


Row = tuple[int | float, str, str, str | None]
"""(sentence index, content, aligned index, purposes) of an ArgRewrite sheet."""


@pytest.fixture
def workbook() -> Callable[..., Path]:
    """Writes an annotation workbook: sheets of rows, 15 or 18 columns, as the corpus has both."""
    openpyxl = pytest.importorskip("openpyxl")

    def write(path: Path, old: Sequence[Row], new: Sequence[Row], *, wide: bool = False) -> Path:
        header = ["Sentence Index", "Sentence Content", "Aligned Index", "Identical?"]
        header += ["Original Paragraph No", "New Paragraph No"]
        for level in range(3):
            header += [f"Revision {what} Level {level}" for what in ("Purpose", "Operation", "Index")]
            header += [f"Subsentential Revision Tuple Level {level}"] if wide else []
        book = openpyxl.Workbook()
        book.remove(book.active)
        for title, rows in (("Old Draft", old), ("New Draft", new)):
            sheet = book.create_sheet(title)
            sheet.append(header)
            for index, text, aligned, purpose in rows:
                cells = dict(zip(header[:3], (index, text, aligned), strict=True))
                cells["Revision Purpose Level 0"] = purpose
                cells["Revision Operation Level 0"] = "Delete"  # wrong nearly everywhere, and never read
                sheet.append([cells.get(column) for column in header])
        path.parent.mkdir(parents=True, exist_ok=True)
        book.save(path)
        return path

    return write


@pytest.fixture(scope="session")
def real_corpora() -> Path:
    """The folder of the real corpora, in their original formats; skips, with the reason, where there is none."""
    folder = Path(os.environ.get("LAYERSELECT_CORPORA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real corpora in {folder}: set LAYERSELECT_CORPORA to the folder that holds them")
    return folder
