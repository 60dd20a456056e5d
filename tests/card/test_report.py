"""The page and the picture of a card."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from layerselect.card import FirstGain
from layerselect.card.recommend import recommendations, why_none
from layerselect.cli.card_display import print_card
from layerselect.report.card import partners, render, write_card_png, write_card_report

from tests.card.made import made
from tests.helpers.figures import drawn_anew, drawn_once  # noqa: F401


class Page(HTMLParser):
    """Tags that are open, and everything a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br", "link", "img", "input", "use", "path", "rect"):
            self.stack.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data") and not value.startswith("#"):
                self.loads.append(value)

    def handle_endtag(self, tag):
        if tag in self.stack:
            while self.stack.pop() != tag:
                pass


def card(**changes):
    coupling = np.array([[1.0, 0.8, 0.1, 0.0], [0.8, 1.0, 0.2, 0.1], [0.1, 0.2, 1.0, -0.3], [0.0, 0.1, -0.3, 1.0]])
    return replace(made([3.0, 2.5, -0.5, 1.0], coupling), **changes)


def test_first_gains_are_shown_where_they_were_measured(capsys, tmp_path):
    plain = card()
    first = {"adamw": FirstGain(1.0, 2.0, 0.123), "sgd": FirstGain(1.0, 2.0, 0.456)}
    settings = {**plain.settings, "gain_steps": 7, "adapt_optimizer": "sgd"}
    measured = replace(plain, layers=[replace(layer, **first) for layer in plain.layers], settings=settings)
    text = render(measured)
    assert all(words in text for words in ("first gain, AdamW", "0.123", "0.456"))
    for shown, there in ((measured, True), (plain, False)):
        print_card(shown, tmp_path)
        output = capsys.readouterr().out
        assert ("0.456" in output) == ("at most 7 steps of sgd" in output) == there
        assert "0.123" not in output and "…" not in output


@pytest.mark.usefixtures("drawn_anew")
def test_the_page_is_whole_and_needs_no_network(tmp_path):
    path = tmp_path / "card.html"
    write_card_report(path, card())
    text = path.read_text()
    page = Page()
    page.feed(text)
    assert page.stack == []
    assert all(value.startswith("data:image/png;base64,") for value in page.loads)
    assert "<script" not in text and "url(http" not in text and "@import" not in text
    assert text.count("<svg") == 2 * 5 and "first gain" not in text.lower()
    for words in (
        "Where the adapters should go",
        "card.place(k=1)",
        "Which layers do the same",
        "layers.3",
        "0.80",
    ):
        assert words in text.replace("<wbr>", "")
    assert render(card()) == text


def test_what_comes_from_outside_is_escaped():
    text = render(card(model={**card().model, "source": "<script>alert(1)</script>"}))
    assert "<script" not in text and "&lt;script" in text


def test_cards_with_less_in_them_have_a_page_too(tmp_path):
    full = card()
    bare = [
        replace(
            layer,
            low=None,
            high=None,
            condition=None,
            cost=replace(layer.cost, forward_ms=None, backward_ms=None, saved_bytes=None),
        )
        for layer in full.layers
    ]
    less = card(layers=bare, coupling=None, stability=None, held_out=False)
    text = render(less)
    assert "too few batches" in text and "Which layers do the same" not in text and text.count("<svg") == 2 * 4
    write_card_png(tmp_path / "less.png", less)
    assert "not stable yet" in render(card(stability=0.3))
    tried = [replace(layer, performance=0.25) for layer in full.layers]
    assert "<th>adapted alone</th>" in render(card(layers=tried))
    assert "<svg" in render(made([1.0]))


def test_the_picture_is_the_same_every_time(tmp_path):
    for name in ("one", "other"):
        write_card_png(tmp_path / f"{name}.png", card())
    data = (tmp_path / "one.png").read_bytes()
    assert data.startswith(b"\x89PNG") and data == (tmp_path / "other.png").read_bytes()


def test_partners_are_others():
    assert partners(card()) == [
        {"layer": 1, "coupling": pytest.approx(0.8)},
        {"layer": 0, "coupling": pytest.approx(0.8)},
        {"layer": 1, "coupling": pytest.approx(0.2)},
        {"layer": 1, "coupling": pytest.approx(0.1)},
    ]
    assert partners(card(coupling=None)) == [None] * 4


def test_recommendations_say_how_to_ask_for_them():
    found = recommendations(card())
    assert [call for _, call, _ in found][:3] == ["card.place(k=1)", "card.place(k=2)", "card.place(budget=0.7)"]
    for _, call, placement in found:
        (bounds,) = re.fullmatch(r"card\.place\((.*)\)", call).groups()
        key, value = bounds.split("=")
        arguments = {key: value.strip("'") if key == "objective" else float(value) if key == "budget" else int(value)}
        assert card().place(**arguments) == placement.layers
    # No layer fits a step at 70 % here, so that bound is not shown.
    assert len(recommendations(made([1.0]))) == 2


def test_no_placement_is_recommended_where_the_figures_are_noise():
    def with_lows(lows, **changes):
        one = card(**changes)
        layers = [
            replace(layer, low=low, high=None if low is None else 10.0)
            for layer, low in zip(one.layers, lows, strict=True)
        ]
        return replace(one, layers=layers)

    noise = with_lows([-0.5, -0.1, -1.0, -0.1], held_out=True)
    assert "what was fitted is noise" in why_none(noise) and recommendations(noise) == []
    text = render(noise)
    assert "No placement is recommended" in text and "card.place(" not in text
    for clear in (
        with_lows([-0.5, 0.1, -1.0, -0.1], held_out=True),
        with_lows([-0.5, -0.1, -1.0, -0.1], held_out=False),
        with_lows([None] * 4, held_out=True),
    ):
        assert why_none(clear) == "" and recommendations(clear)
