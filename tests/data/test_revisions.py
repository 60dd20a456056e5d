"""Unlabelled revisions for `predict`."""

from __future__ import annotations

import io

import pytest
from layerselect.data import CorpusError, read_revisions

from tests.data.conftest import write_lines


def test_rows_keep_their_order_ids_and_context(tmp_path):
    rows = [{"id": 5, "before": "a", "after": "b", "before_context": "z"}, {"before": "c", "after": ""}]
    assert read_revisions(write_lines(tmp_path / "x.jsonl", rows)) == [
        {"id": "5", "before": "a", "after": "b", "before_context": "z", "after_context": ""},
        {"id": "2", "before": "c", "after": "", "before_context": "", "after_context": ""},
    ]


def test_named_columns_and_iteraters_names(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", [{"before_sent": "a", "after_sent": "b", "other": "c"}])
    assert read_revisions(path)[0]["before"] == "a"
    assert read_revisions(path, after="other")[0]["after"] == "c"
    with pytest.raises(CorpusError, match="no column 'nope'; its columns are 'before_sent', 'after_sent', 'other'"):
        read_revisions(path, before="nope")


@pytest.mark.parametrize(
    "content",
    [b'{"before": "a", "after": "b"}\n', b'[{"before": "a", "after": "b"}]', b"\xef\xbb\xbfbefore,after\na,b\n"],
)
def test_standard_input_is_json_or_csv(content):
    (row,) = read_revisions("-", stdin=io.BytesIO(content))
    assert (row["before"], row["after"]) == ("a", "b")


@pytest.mark.parametrize(("content", "message"), [(b" \n", "is empty"), (b"before,after\n", "holds no rows")])
def test_standard_input_without_rows(content, message):
    with pytest.raises(CorpusError, match=f"standard input {message}"):
        read_revisions("-", stdin=io.BytesIO(content))


def test_malformed_rows_are_skipped_reported_or_refused(tmp_path, caplog):
    path = write_lines(tmp_path / "x.jsonl", [{"before": "a", "after": "b"}, "{", {"before": "c"}])
    defects = []
    assert [row["id"] for row in read_revisions(path, defects=defects)] == ["1"]
    assert [defect.row for defect in defects] == [2, 3]
    assert "2 malformed row(s) skipped; the first is x.jsonl:2" in caplog.text
    with pytest.raises(CorpusError, match=r"2 malformed row\(s\), the first is x.jsonl:2"):
        read_revisions(path, strict=True)


def test_no_usable_row_is_an_error(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", [{"before": "", "after": ""}])
    with pytest.raises(CorpusError, match="both 'before' and 'after' are empty"):
        read_revisions(path)
