"""What `describe` counts, worked out by hand."""

from __future__ import annotations

import io
import json

import pytest
from layerselect.data import describe, load_corpus
from layerselect.data.describe import SHOWN_DEFECTS
from rich.console import Console

from tests.data.conftest import write_lines


@pytest.fixture
def corpus(tmp_path):
    rows = [
        # before, after, label, doc, split
        ("one two three", "one two", "a", "d1", "train"),
        ("one two three", "one two", "b", "d1", "train"),  # the same pair, another label
        ("x  y", "x y", "a", "d2", "train"),  # white space only
        ("", "new", ["a", "b"], "d3", "train"),
        ("gone away", "", "a", "d3", "dev"),  # d3 leaks
        ("one two three", "one two", "a", "d4", "dev"),  # the pair of the first row, in another split
        ("p q", "p r", "[red]c", "d5", "dev"),
    ]
    keys = ("before", "after", "label", "doc_id", "split")
    records = [dict(zip(keys, row, strict=True)) for row in rows]
    bad = [{"before": 1}] * (SHOWN_DEFECTS + 2)
    return load_corpus(write_lines(tmp_path / "small.jsonl", [*records, *bad]), splits="official")


def test_counts(corpus):
    found = describe(corpus)
    assert found.rows == {"train": 4, "validation": 3}
    assert found.documents == {"train": 3, "validation": 3}
    assert found.labels == {
        "[red]c": {"train": 0, "validation": 1},
        "a": {"train": 3, "validation": 2},
        "b": {"train": 2, "validation": 0},
    }
    assert found.majority == {"train": 3 / 4, "validation": 2 / 3}
    assert found.multi_label_rows == 1
    assert found.operations == {"addition": 1, "deletion": 1, "change": 5}
    assert found.same_after_folding == 1
    assert found.repeated_pairs == 2
    assert found.conflicting_pairs == 1
    assert found.pairs_in_two_splits == 1
    assert found.leaking_documents == {"train + validation": 1}
    assert len(found.defects) == SHOWN_DEFECTS + 2
    assert found.cut is None


def test_lengths_leave_empty_sides_out(corpus):
    lengths = describe(corpus).lengths
    # Words before: 3 3 2 2 3 2 (the addition has none); after: 2 2 2 1 2 2.
    assert (lengths["words before"].median, lengths["words before"].longest) == (2.5, 3)
    assert (lengths["words after"].median, lengths["words after"].longest) == (2.0, 2)
    assert lengths["characters before"].longest == len("one two three")


def test_share_of_pairs_that_would_be_cut(corpus):
    found = describe(corpus, count_tokens=lambda b, a: len(b.split()) + len(a.split()), max_length=4)
    assert found.cut == 3 / 7  # the three pairs of five words
    assert found.lengths["tokens"].longest == 5


def test_render_prints_every_number_once_and_no_markup_of_the_data(corpus):
    out = io.StringIO()
    describe(corpus).render(Console(file=out, width=120))
    text = out.getvalue()
    for expected in ("[red]c", "additions", "deletions", "documents in train + validation", "... and 2 more"):
        assert expected in text
    assert "skipped: small.jsonl:8: the field 'before' is int, not a string" in text
    assert text.count("skipped: ") == SHOWN_DEFECTS


def test_as_dict_is_json(corpus):
    loaded = json.loads(json.dumps(describe(corpus).as_dict()))
    assert loaded["rows"] == {"train": 4, "validation": 3}
    assert loaded["defects"][0]["file"] == "small.jsonl"
