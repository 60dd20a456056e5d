"""The measurement of thresholds runs, and its rules are what their names say."""

import json
import sys

import numpy as np
import pytest
from tools import thresholds

from tests.helpers.tiny_intent import revisions, write_jsonl


@pytest.fixture
def corpus(tmp_path):
    rows = revisions(documents=10)
    for number, row in enumerate(rows):
        if number % 4 == 0:
            row["intentions"] = sorted({*row["intentions"], "fluency"})
    return write_jsonl(tmp_path / "several.jsonl", rows)


def test_it_measures_every_rule(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(thresholds, "SEEDS", (1, 2))
    out = tmp_path / "thresholds.json"
    monkeypatch.setattr(sys, "argv", ["thresholds", str(corpus), "--out", str(out)])
    thresholds.main()
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["logistic regression", "text regression", *thresholds.RULES]
    for several in rows.values():
        assert [set(each) for each in several] == [{"macro_f1", "micro_f1", "accuracy"}] * 2
        assert all(0 < value <= 1 for each in several for value in each.values())
    assert len(thresholds.thresholds_table(out).splitlines()) == 2 + len(rows)


def test_one_label_each_has_no_thresholds(tmp_path):
    with pytest.raises(SystemExit, match="one label for each"):
        thresholds.measure(str(write_jsonl(tmp_path / "one.jsonl", revisions(documents=10))))


FOUND = np.array([[0.9, 0.2], [0.6, 0.1], [0.4, 0.3], [0.2, 0.15]])
TARGETS = np.array([[1, 0], [1, 0], [1, 1], [0, 0]])


def test_the_rules():
    shares = np.array([0.75, 0.25])
    assert thresholds.best_found(FOUND, TARGETS, shares) == pytest.approx([0.3, 0.25])
    assert thresholds.as_often(FOUND, TARGETS, shares) == pytest.approx([0.3, 0.25])
    one = thresholds.one_for_all(FOUND, TARGETS, shares)
    assert one[0] == one[1]
    assert 0.2 < one[0] <= 0.3  # the first label is answered right, and the second where it is there
    assert thresholds.expected(FOUND[:, :1], TARGETS, shares) == pytest.approx([1.9 / (3 + 2.1)])
