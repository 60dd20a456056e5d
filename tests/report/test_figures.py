"""Figures: drawn for both widths, in the page's colours, with words; held scores are hatched."""

from __future__ import annotations

import re

import numpy as np
import pytest
from layerselect.report.drawing import PALETTE, drawn, short
from layerselect.report.figures import curves, frequency_bars
from layerselect.report.heat_map import heat_map, held_scores, legend

from tests.report.pages import history


def tags(drawing, name):
    return re.findall(rf"<{name}\b[^>]*>", drawing)


def test_a_figure_has_two_drawings_with_words_and_a_size():
    drawing = frequency_bars([1, 2], 4, [1, 1])
    wide, narrow = tags(drawing, "svg")
    for tag, name in ((wide, "wide"), (narrow, "narrow")):
        assert f'class="{name}" role="img"' in tag and "viewBox=" in tag
        assert not re.search(r"\s(width|height)=", tag)
        assert "layer 0 25% / 25%, layer 1 50% / 25%" in tag
    assert "1 layer" in tags(frequency_bars([1], 1), "svg")[0] and "1 step " in tags(frequency_bars([1], 1), "svg")[0]


def test_words_of_a_figure_are_escaped():
    drawing = drawn(
        'a "b" <c> & d', lambda figure, width: figure.text(0.5, 0.5, "<i>$x$</i> #2563eb"), lambda width: 99
    )
    assert 'aria-label="a &quot;b&quot; &lt;c&gt; &amp; d"' in drawing
    # A text is not a formula, no markup, and keeps what looks like a colour.
    assert "&lt;i&gt;$x$&lt;/i&gt; #2563eb</text>" in drawing


def test_the_colours_are_those_of_the_page():
    drawing = frequency_bars([1, 2], 4, [1, 1])
    for name in ("blue", "pale", "text"):
        assert f"var(--{name}, {PALETTE[name][0]})" in drawing
    plain = re.sub(r"var\([^)]*\)", "", drawing)
    assert re.findall(r"(?:fill|stroke): (#\w+)", plain) == []


def test_no_drawing_takes_a_part_from_another():
    drawing = heat_map(history(40, 3), [""] * 3) + frequency_bars([1, 2], 4, [1, 1])
    names = re.findall(r' id="([^"]+)"', drawing)
    used = re.findall(r'(?:url\(|href=")#([^")]+)', drawing)
    assert names and len(set(names)) == len(names)
    assert set(used) == set(names)


def test_held_scores_are_hatched_and_the_legend_says_so():
    made = history(40, 3)
    assert held_scores(made).tolist() == (~made["trained"]).tolist()
    assert heat_map(made, [""] * 3).count("<pattern") == 2
    assert any(kind == "held" and "hatched" in words for kind, words in legend(made))
    assert "are hatched" in tags(heat_map(made, [""] * 3), "svg")[0]


@pytest.mark.parametrize("change", ["all trained", "not known", "never measured"])
def test_without_held_scores_nothing_is_hatched(change):
    made = history(40, 3)
    if change == "all trained":
        made["trained"] = np.ones_like(made["trained"])
    elif change == "not known":
        del made["trained"]
    else:
        made["scores"] = np.full_like(made["scores"], np.nan)
    assert not held_scores(made).any()
    assert "<pattern" not in heat_map(made, [""] * 3)
    assert all(kind != "held" for kind, _ in legend(made))


def test_many_steps_are_hatched_where_most_of_a_field_was_held():
    made = history(5000, 2)
    made["trained"][:] = True
    made["trained"][1000:3000, 0] = False
    made["trained"][::50, 1] = False  # too thin to be seen as a hatching
    drawing = heat_map(made, [""] * 2)
    outlines = [
        re.search(r' d="([^"]*)"', tag)[1] for tag in tags(drawing, "path") if "url(#" in tag and "fill: url" in tag
    ]
    assert [outline.count("M") for outline in outlines] == [1, 1]


def test_a_long_name_keeps_both_ends():
    assert short("short", 5) == "short"
    assert short("layer-card:k=4/none", 12) == "layer-c…none"
    assert len(short("x" * 300, 20)) == 20


def test_ticks_have_thousands_apart_and_no_powers():
    losses = [{"step": step, "loss": 3e6 - step} for step in (0, 20_000)]
    texts = re.findall(r">([^<>]+)</text>", curves(losses, []))
    assert "20,000" in texts and "3,000,000" in texts
    assert not any("e" in text and text[0].isdigit() for text in texts)
