"""The figures of a report of `revise`."""

import re

from layerselect.report.figures import curves, transfer_bars


def test_the_bars_mark_chosen_layers_and_those_of_both():
    drawing = transfer_bars([1, 2, 3], [0, 1], [3, 2, 1], [1], own_steps=3)
    assert drawing.count("fill: #2563eb") == 2
    assert drawing.count("fill: #d97706") == 1
    assert drawing.count("fill: #cbd5e1") == 3
    assert drawing.count("fill: #ede9fe") == 2  # one layer, in both panels
    alone = transfer_bars([1, 2, 3], [0, 1], [], [])
    assert "fill: #d97706" not in alone
    assert "fill: #ede9fe" not in alone


def test_the_curves_draw_what_was_measured():
    rows = [{"split": "v", "step": s, "loss": 1.0} for s in (1, 2)]
    assert "no quality measured" in curves_text(rows)
    assert "no evaluation" in curves_text([])
    measured = curves_text([rows[0], {**rows[1], "sari": 40.0}])
    assert "SARI" in measured
    assert "keep" not in measured


def curves_text(metrics):
    """The comments in which matplotlib keeps the texts that it draws as paths."""
    drawing = curves([{"step": 1, "loss": 1.0}], metrics, (("sari", "SARI"), ("keep", "keep")), top=100)
    return " ".join(re.findall(r"<!--(.*?)-->", drawing))
