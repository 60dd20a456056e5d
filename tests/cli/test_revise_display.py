"""The tables of a writer: at 80 columns no heading is cut."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from layerselect.cli.revise_display import print_revision_scores
from layerselect.metrics import revision_scores
from layerselect.tasks.revise import SplitResult
from rich.console import Console

from tests.report.revised import COPIED, TRAINED

TEXTS = [f"word{number} stays here" for number in range(60)]
ASKED = [[f"word{number} was here"] for number in range(60)]
LONG = [["claims/ideas"], ["general-content-development and more"], ["word-usage/clarity"]] * 20


def shown(reports, columns):
    split = SplitResult("validation", 3, 3, 1.0, reports)
    stream = io.StringIO()
    print_revision_scores(Console(file=stream, width=columns), SimpleNamespace(splits=[split], transfer=None))
    text = stream.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= columns
    return text


@pytest.mark.parametrize("columns", [80, 120])
def test_no_word_of_the_table_is_cut(columns):
    text = shown({"source copied": COPIED, "trained model": TRAINED}, columns)
    assert "copied" in text and "Update-" in text
    assert "edits" not in text  # of a run that did not count them


@pytest.mark.parametrize("columns", [80, 120])
def test_nor_one_of_the_edits(columns):
    made = [text.replace("stays", "was") for text in TEXTS]
    texts = {"source copied": TEXTS, "untrained, 256 shots": ["w x y z" * 99] * 60, "trained model": made}
    text = shown({name: revision_scores(TEXTS, each, ASKED, LONG) for name, each in texts.items()}, columns)
    words = ("validation: edits of the trained model", "untrained, 256 shots", "inserted", "replaced", "reference")
    assert all(each in text for each in words)
    assert "word-usage/clarity" in text and "claims/ideas" in text
