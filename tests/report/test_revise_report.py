"""The page of a finished run of `revise`: what it shows, escapes and says, and its controls."""

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from layerselect.metrics import revision_scores
from layerselect.report import write_revise_report
from layerselect.report.figures import curves, transfer_bars
from layerselect.report.revise import MAX_PREDICTIONS, render

from tests.report.revised import COPIED, EVIL, PREDICTIONS, TRANSFER, make, prediction

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """Collects tags, what they would load, the text, and the ids of the pairs in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.ids, self.text = [], [], [], ""
        self.feed(text)
        self.words = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for key, value in attrs if key in ("src", "href", "xlink:href", "data") and value]
        found = dict(attrs)
        if found.get("class") == "pair":
            self.ids.append(found["data-id"])

    def handle_data(self, data):
        self.text += data


def test_the_page_loads_nothing_and_has_one_script():
    text = render(make())
    page = Page(text)
    assert page.tags.count("script") == 1
    assert page.tags.count("svg") == 2 * 4  # each for a wide and for a narrow page
    assert all(value.startswith(("#", "data:")) for value in page.loads)
    assert not re.search(r"url\((?!#)", text)
    assert not re.search(r"\son\w+=", text)


def test_texts_ids_labels_and_options_are_escaped():
    evil = f"{EVIL}\"'&"
    row = prediction(evil, f"{evil} a b", f"{evil} a c", f"b {evil}", intentions=(evil,), split=evil)
    corpus = {
        **make().corpus,
        "name": evil,
        "notes": [evil],
        "defects": [evil],
        "fingerprint": evil,
        "splits": {evil: {"examples": 1, "documents": 1, "cut": 0, "intentions": {evil: 1}}},
    }
    report = make(
        settings={"model": evil, evil: evil, "rule": evil},
        corpus=corpus,
        versions={evil: evil},
        training={**make().training, "mode": evil, evil: evil},
        splits={evil: {evil: COPIED}},
        predictions=[row, {**row, "split": "test"}],
        metrics=[{**make().metrics[0], "split": evil}],
        transfer={**TRANSFER, "warnings": [evil]},
    )
    text = render(report)
    assert text.count("<script") == 1
    assert "&lt;script&gt;" in text
    page = Page(text)
    assert page.ids == [evil, evil]  # whole inside an attribute
    assert page.tags.count("script") == 1


def test_the_headline_is_the_trained_model_beside_the_source_copied():
    words = Page(render(make())).words
    assert "source copied, SARI on test31.5" in words
    assert "trained model, SARI on test40.0" in words
    chosen = make(
        splits={"validation": make().splits["validation"]}, corpus={**make().corpus, "chosen_by": "validation"}
    )
    assert "trained model, SARI on validation41.2" in Page(render(chosen)).words
    assert "This split also chose the checkpoint" in render(chosen)
    assert "This split also chose the checkpoint" not in render(make())


def test_the_table_holds_every_score():
    text = render(make())
    row = re.search(r'<tr class="own"><td></td>(.*?)</tr>', text, re.DOTALL).group(1)
    assert re.findall(r"<td[^>]*>(.*?)</td>", row) == [
        "trained model",
        "41.2",
        "10.0",
        "80.0",
        "33.8",
        "0.500",
        "–",
        "0.125",
        "3",
        "0.250",
    ]
    cut = re.search(r"<tr><td>train</td>(.*?)</tr>", text).group(1)
    assert re.findall(r"<td>(.*?)</td>", cut) == ["9", "2", "4 (kept 30 of 50 sentences)", "7", "2", "0"]


def test_edits_stand_by_kind_and_by_intention():
    texts = ["a b c", "a b c"], [["a x c"], ["a b"]], [["style"], [EVIL]]
    rows = {
        "source copied": revision_scores(texts[0], texts[0], *texts[1:]),
        "trained model": revision_scores(texts[0], ["a x c", "new a b c"], *texts[1:]),
    }
    text = render(make(splits={"test": rows}))
    section = re.search(r'<h2 id="edits">(.*?)<h2 id="revisions">', text, re.DOTALL).group(1)
    lines = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr class.*?</tr>", section, re.DOTALL)]
    assert lines == [
        ["test", "in the references", "2", "0", "1", "1", "", "", "", "", ""],
        ["", "source copied", "0.000", "–", "0.000", "0.000", "–", "–", "–", "–", "0.00"],
        ["", "trained model", "0.500", "–", "0.000", "1.000", "0.500", "1.000", "–", "0.000", "0.50"],
    ]
    style = next(row for row in re.findall(r"<tr>.*?</tr>", section, re.DOTALL) if "trained" in row and "style" in row)
    assert re.findall(r"<td[^>]*>(.*?)</td>", style)[2:] == ["style", "1", "1", "1.000", "0.000", "0.00", "0.000"]
    assert EVIL not in section and '<a href="#edits">' in text
    assert "edits" not in render(make())  # of a run that did not count them


def test_a_pair_shows_both_differences_and_its_scores():
    text = render(make(predictions=PREDICTIONS[:1]))
    model = re.search(r'<div class="prediction">(.*?)</div>', text).group(1)
    assert model == "A <del>cat</del><ins>dog</ins> sat."
    assert re.findall(r'<div class="reference">(.*?)</div>', text) == [model]
    words = Page(text).words
    assert "SARI50.0" in words
    assert "exact matchyes" in words
    assert "copiedno" in words


def test_several_references_and_an_empty_prediction():
    text = render(make(predictions=PREDICTIONS[2:]))
    assert re.findall(r'<div class="reference">(.*?)</div>', text) == [
        "One<del> two</del>.",
        "<del>One two</del><ins>Two</ins>.",
    ]
    assert "reference 2" in text
    assert '<span class="none">(empty) </span><del>One two.</del>' in text
    assert "(empty)" not in render(make(predictions=PREDICTIONS[:1]))


def test_without_a_script_the_lowest_sari_comes_first_and_unknown_ones_last():
    unknown = {**PREDICTIONS[0], "id": "none", "scores": {"sari": None}}
    strange = {**PREDICTIONS[0], "id": "nan", "scores": {"sari": float("nan")}}
    page = Page(render(make(predictions=[unknown, strange, *PREDICTIONS])))
    assert page.ids == ["d9", "d2", "d10", "nan", "none"]
    assert "The lowest SARI comes first" in page.words


def test_a_long_list_is_cut_and_says_so():
    many = [{**PREDICTIONS[0], "id": f"n{i}", "scores": {"sari": float(-i)}} for i in range(MAX_PREDICTIONS + 7)]
    page = Page(render(make(predictions=many)))
    assert len(page.ids) == MAX_PREDICTIONS
    assert page.ids[0] == f"n{MAX_PREDICTIONS + 6}"
    assert f"These are the {MAX_PREDICTIONS} of {MAX_PREDICTIONS + 7} with the lowest SARI" in page.words
    assert "These are the" not in Page(render(make(predictions=many[:MAX_PREDICTIONS]))).words


def test_the_transfer_in_words():
    words = Page(render(make())).words
    assert (
        "The adapters of 2 layers started as the predictor had ended: 1, 3. The others started fresh and were frozen."
        in words
    )
    assert "chose 2 layers: 2, 3. Of these, 1 is among the predictor's layers: the alignment ratio r is 0.50." in words
    assert "the loss on some training examples was 2.25 without the predictor's adapters and 2.5 with them." in words
    assert 'class="warning"' not in render(make())


def test_a_low_ratio_and_given_warnings_are_shown():
    low = render(make(transfer={**TRANSFER, "ratio": 0.25}))
    assert "The alignment ratio is 0.25: less than half" in low
    given = render(make(transfer={**TRANSFER, "ratio": 0.25, "warnings": ["mind this"]}))
    assert '<div class="warning">mind this</div>' in given
    assert given.count('class="warning"') == 1


def test_other_kinds_of_transfer():
    everything = Page(render(make(transfer={**TRANSFER, "kind": "all", "layers": [0, 1, 2, 3], "ratio": 1.0}))).words
    assert "The adapters of all layers started as the predictor had ended." in everything
    nothing = render(make(transfer={"kind": "none", "layers": [], "own": [1], "ratio": None, "frequency": None}))
    assert "Nothing was taken over" in nothing
    assert "alignment ratio" not in nothing
    unmeasured = render(make(transfer={"kind": "shared", "layers": [1], "frequency": [0, 4]}))
    assert "was not measured" in unmeasured
    assert "Transfer from the predictor" not in render(make(transfer=None))


def test_a_run_without_splits_steps_or_predictions_still_has_a_page():
    empty = {"step": np.zeros(0, int), "scores": np.zeros((0, 4), np.float32), "mask": np.zeros((0, 4), bool)}
    text = render(make(splits={}, metrics=[], losses=[], history=empty, training={}, settings={}, predictions=[]))
    assert "There are no predictions" in text
    assert "No step was recorded" in text
    assert "<script" not in text


def test_the_same_run_gives_the_same_page(tmp_path, drawn_anew):
    write_revise_report(tmp_path / "a.html", make())
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == render(make())
    write_revise_report(tmp_path / "b.html", make(predictions=[prediction("x", "a \ud800", "b", "c")]))
    assert "a ?" in (tmp_path / "b.html").read_text(encoding="utf-8").replace("<del>", "").replace("</del>", "")


def test_the_bars_mark_chosen_layers_and_those_of_both():
    drawing = transfer_bars([1, 2, 3], [0, 1], [3, 2, 1], [1], own_steps=3)
    drawing = drawing[: drawing.index("</svg>")]
    assert drawing.count("#2563eb") == 2
    assert drawing.count("#d97706") == 1
    assert drawing.count("#cbd5e1") == 3
    assert drawing.count("#ede9fe") == 2  # one layer, in both panels
    alone = transfer_bars([1, 2, 3], [0, 1], [], [])
    assert "#d97706" not in alone
    assert "#ede9fe" not in alone


def test_the_curves_draw_what_was_measured():
    rows = [{"split": "v", "step": s, "loss": 1.0} for s in (1, 2)]
    assert "no quality measured" in curves_text(rows)
    assert "no evaluation" in curves_text([])
    measured = curves_text([rows[0], {**rows[1], "sari": 40.0}])
    assert "SARI" in measured
    assert "keep" not in measured


def curves_text(metrics):
    """What is written in the drawing."""
    drawing = curves([{"step": 1, "loss": 1.0}], metrics, (("sari", "SARI"), ("keep", "keep")), top=100)
    return " ".join(re.findall(r">([^<>]+)</text>", drawing))


#: What the controls say, and the ids that are shown then, in order. ``none`` has no score: it stays last in either
#: direction.
SORTED = [
    ({}, ["d9", "d2", "d10", "none"]),
    ({"descending": True}, ["d10", "d2", "d9", "none"]),
    ({"sort": "4"}, ["d2", "d10", "d9", "none"]),
    ({"sort": "id"}, ["d2", "d9", "d10", "none"]),
    ({"sort": "id", "descending": True}, ["none", "d10", "d9", "d2"]),
    ({"intention": "1"}, ["d9", "d2"]),
    ({"intention": "1", "sort": "4"}, ["d2", "d9"]),
]
WORK_THE_CONTROLS = """
const get = (id) => document.getElementById(id), found = [];
for (const controls of CONTROLS) {
  get("sort").value = controls.sort || "0";
  get("descending").checked = Boolean(controls.descending);
  get("intention").value = controls.intention || "";
  get("sort").dispatchEvent(new Event("change"));
  const ids = Array.from(document.querySelectorAll(".pair:not([hidden])"), (pair) => pair.dataset.id);
  found.push([ids, get("count").textContent, get("controls").hidden]);
}
document.title = JSON.stringify(found);
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to run the page's script in")
def test_the_script_sorts_and_filters(tmp_path):
    unknown = {**PREDICTIONS[0], "id": "none", "scores": {}}
    script = WORK_THE_CONTROLS.replace("CONTROLS", json.dumps([controls for controls, _ in SORTED]))
    page = tmp_path / "page.html"
    text = render(make(predictions=[unknown, *PREDICTIONS]))
    page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    if "</html>" not in done.stdout:
        pytest.skip(f"{BROWSER} does not start here: {done.stderr[-200:]}")
    found = json.loads(unescape(re.search(r"<title>(.*?)</title>", done.stdout).group(1)))
    assert found == [[ids, f"{len(ids)} of 4", False] for _, ids in SORTED]
