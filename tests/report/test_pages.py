"""What all pages have in common, and what they put first."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from layerselect.report import card as card_page
from layerselect.report import intent as intent_page
from layerselect.report import revise as revise_page
from layerselect.report.numbers import score
from layerselect.report.revise import render

from tests.card.made import made
from tests.report.pages import PAGES, WORD, comparison, intent, quality
from tests.report.revised import COPIED, TRAINED, prediction
from tests.report.test_intent_report import make as make_intent
from tests.report.test_revise_report import make as make_revise

SMALL = {name: PAGES[name] for name in ("intent", "intent-one-step", "revise", "compare", "card")}


@pytest.fixture(scope="module")
def pages():
    return {name: make() for name, make in SMALL.items()}


def cells(row):
    return re.findall(r"<td([^>]*)>(.*?)</td>", row)


def rows_of(text, heading):
    table = text[text.index(f">{heading}</h2>") :]
    table = table[: table.index("</table>")]
    return [cells(row) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)[1:]]


@pytest.mark.parametrize("name", SMALL)
def test_a_page_has_both_schemes_and_comes_alone(pages, name):
    text = pages[name]
    assert text.startswith("<!doctype html>")
    assert "prefers-color-scheme: dark" in text and 'name="color-scheme" content="light dark"' in text
    assert not re.search(r"url\((?!#|&#39;#)", text) and "@import" not in text and "<link" not in text
    assert all(value.startswith(("#", "data:")) for value in re.findall(r'(?:src|href)="([^"]*)"', text))


@pytest.mark.parametrize("name", SMALL)
def test_no_number_is_raw(pages, name):
    words = re.sub(r"<style.*?</style>|<script.*?</script>|<svg.*?</svg>|<[^>]+>", " ", pages[name], flags=re.DOTALL)
    assert not re.search(r"[1-9]\.\d{5,}|0\.\d{8,}|\de\+\d", words)
    assert not re.search(r"\b1 (steps|layers|seeds|examples|batches|others|defects|pairs)\b", words)


@pytest.mark.parametrize("name", ["intent", "revise", "compare"])
def test_the_legend_says_what_is_hatched(pages, name):
    assert '<i class="held"></i>hatched: held score' in pages[name]


def test_the_revisions_come_before_the_settings(pages):
    found = re.findall(r'<h2 id="(\w+)"', pages["revise"])
    assert found == ["results", "revisions", "transfer", "layers", "training", "corpus", "settings"]
    assert re.findall(r'<a href="#(\w+)"', pages["revise"]) == found
    assert pages["revise"].index('<article class="pair"') < pages["revise"].index('<h2 id="transfer"')


def test_tied_bests_are_all_bold():
    for row in rows_of(intent(), "Results"):
        assert [attributes for attributes, _ in row[2:]] == [' class="best"'] * 3
    rows = rows_of(comparison(("all", "ir", "random", "half")), "Quality")
    assert [(row[0][1], "best" in row[1][0]) for row in rows] == [
        ("majority class", False),
        ("logistic regression", True),  # 0.810, as two of the methods
        ("all", False),
        ("ir", True),
        ("random", False),
        ("half", True),
    ]


def test_only_the_best_of_a_split_is_bold():
    report = make_revise(splits={"test": {"source copied": COPIED, "trained model": TRAINED}})
    copied, trained = rows_of(render(report), "Results")
    bold = [["best" in attributes for attributes, _ in row[2:9]] for row in (copied, trained)]
    #           SARI  add    keep   delete GLEU  ROUGE  exact
    assert bold == [
        [False, False, True, False, True, True, False],
        [True, True, False, True, False, False, True],
    ]


def test_a_baseline_that_is_better_is_bold():
    assert score(quality(["a", "b"]).macro_f1) != "1.000"
    rows = rows_of(comparison(("all",)), "Quality")
    assert [row[0][1] for row in rows if "best" in row[1][0]] == ["logistic regression"]


def test_a_run_of_one_step_is_of_one_step(pages):
    text = pages["intent-one-step"]
    assert "1 step of 8 examples" in text
    assert "over 1 step, 0 to 0" in text and "Heat map of 1 layer " in text


def test_what_has_no_break_is_broken_or_scrolls():
    rows = [prediction(WORD, WORD, WORD, WORD)]
    text = render(make_revise(predictions=rows))
    assert "overflow-wrap: anywhere" in text
    assert text.count('<div class="scroll"><table') == text.count("<table") - text.count('<table class="facts"')


@pytest.mark.parametrize(("make", "page"), [(make_intent, intent_page), (make_revise, revise_page)])
@pytest.mark.parametrize(("steps", "says"), [(19, True), (20, False)])
def test_a_page_of_a_short_run_says_that_it_is_not_to_be_compared(make, page, steps, says):
    report = make()
    shown = page.render(replace(report, training={**report.training, "steps": steps}))
    assert ("Too few steps to compare" in shown) == says


@pytest.mark.parametrize(("fresh", "noise"), [((1.0, 2.0), False), ((0.1, 0.2), True)])
def test_a_card_that_recommends_nothing_draws_no_gains(fresh, noise):
    shown = card_page.render(made(fresh))
    assert ("No placement is recommended" in shown) == noise
    assert ("best gain for each cost" not in shown) == noise


@pytest.mark.parametrize(("steps", "says"), [(3, True), (50, False)])
def test_a_card_of_few_adapted_steps_says_so(steps, says):
    card = made((1.0, 2.0))
    layers = [replace(layer, performance=0.1) for layer in card.layers]
    shown = card_page.render(replace(card, layers=layers, settings={**card.settings, "adapt_steps": steps}))
    assert ("Too few steps to compare" in shown) == says


def test_names_of_a_card_break_behind_their_dots_and_are_escaped():
    card = made((1.0, 2.0))
    maps = [replace(card.layers[0].maps[0], name="a.<b>.c.query.d")]
    first = replace(card.layers[0], name="a.<b>.c", maps=maps)
    shown = card_page.render(replace(card, layers=[first, *card.layers[1:]]))
    assert "a.<wbr>&lt;b&gt;.<wbr>c</td>" in shown and ">query.<wbr>d</td>" in shown
