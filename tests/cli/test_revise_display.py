"""The table of a writer: at 80 columns no heading is cut."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from layerselect.cli.revise_display import print_revision_scores
from rich.console import Console

from tests.report.revised import COPIED, TRAINED


@pytest.mark.parametrize("columns", [80, 120])
def test_no_word_of_the_table_is_cut(columns):
    split = SimpleNamespace(
        split="validation", scored=3, examples=3, reports={"source copied": COPIED, "trained model": TRAINED}
    )
    stream = io.StringIO()
    print_revision_scores(Console(file=stream, width=columns), SimpleNamespace(splits=[split], transfer=None))
    shown = stream.getvalue()
    assert "…" not in shown and "copied" in shown and "Update-" in shown
    assert max(map(len, shown.splitlines())) <= columns
