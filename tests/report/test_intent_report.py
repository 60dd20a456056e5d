import re
from html.parser import HTMLParser

import numpy as np
import pytest
from layerselect.metrics import classification_report
from layerselect.report import IntentReport, write_intent_report
from layerselect.report.heat_map import _binned, _rows_of, heat_map
from layerselect.report.intent import render
from matplotlib import colormaps
from matplotlib.colors import Normalize

LABELS = ["clarity", "<b>style</b>"]


def make(multi_label=False, **changes):
    steps, layers = 30, 4
    random = np.random.default_rng(0)
    targets = np.array([[1, 0], [1, 1], [0, 1]]) if multi_label else np.array([0, 1, 1])
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    quality = classification_report(targets, scores, LABELS, multi_label=multi_label)
    row = {
        "split": "validation",
        "step": 15,
        "epoch": 1.0,
        "macro_f1": 0.5,
        "macro_auprc": 0.6,
        "accuracy": 0.5,
        "loss": 1.0,
    }
    values = {
        "settings": {
            "model": "m&m",
            "adapter": "lora",
            "format": "edits",
            "rule": "variance",
            "batch_size": 8,
            "accumulate": 1,
            "seed": 0,
            "keep": "best",
        },
        "corpus": {
            "name": "<script>alert(1)</script>",
            "chosen_by": "validation",
            "notes": ["13 documents <leak>"],
            "defects": ["a.csv:3: bad"],
            "defect_count": 1,
            "fingerprint": "00ff",
            "splits": {"validation": {"examples": 3, "documents": 2, "labels": dict.fromkeys(LABELS, 1)}},
        },
        "training": {
            "mode": "freeze",
            "steps": steps,
            "kept_step": 15,
            "layers_selected": 2.0,
            "num_layers": layers,
            "layers_with_gradient": 2.5,
        },
        "versions": {"torch": "2"},
        "labels": LABELS,
        "multi_label": multi_label,
        "splits": {"validation": {"majority class": quality, "trained model": quality}},
        "metrics": [row, {**row, "final": True}],
        "losses": [{"step": 10, "loss": 1.5}, {"step": 20, "loss": 1.1}],
        "layer_names": [f"layer.{i}" for i in range(layers)],
        "frequency": [1, 2, 3, 30],
        "history": {
            "step": np.arange(steps),
            "scores": random.random((steps, layers)).astype(np.float32),
            "mask": random.random((steps, layers)) > 0.5,
        },
    }
    return IntentReport(**{**values, **changes})


class Page(HTMLParser):
    """Collects tags, what they would load, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for key, value in attrs if key in ("src", "href", "xlink:href", "data") and value]

    def handle_data(self, data):
        self.text += data + " "


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_page_loads_nothing_and_runs_nothing(multi_label):
    page = Page(render(make(multi_label)))
    assert "script" not in page.tags
    assert page.tags.count("svg") == 2 * 3  # each for a wide and for a narrow page
    assert all(value.startswith(("#", "data:")) for value in page.loads)
    assert not re.search(r"url\((?!#)", render(make(multi_label)))


def test_what_comes_from_a_corpus_is_escaped():
    text = render(make())
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<b>style</b>" not in text
    assert "m&amp;m" in text
    assert "13 documents &lt;leak&gt;" in text


def test_the_confusion_matrix_and_the_baselines_are_there():
    page = Page(render(make()))
    words = " ".join(page.text.split())
    assert "true \\ predicted clarity <b>style</b> clarity 1 0 <b>style</b> 1 1" in words
    assert "majority class" in words
    assert "also chose the checkpoint" in words


def test_several_labels_get_a_table_instead_of_a_matrix():
    words = " ".join(Page(render(make(True))).text.split())
    assert "true pos." in words
    assert "true \\ predicted" not in words


def test_a_split_that_chose_nothing_leads_the_page():
    quality = make().splits["validation"]
    report = make(splits={"validation": quality, "test": quality})
    words = " ".join(Page(render(report)).text.split())
    assert "majority class, macro-F1 on test" in words
    assert "also chose the checkpoint" not in words


def test_the_same_run_gives_the_same_page(tmp_path, drawn_anew):
    write_intent_report(tmp_path / "a.html", make())
    assert (tmp_path / "a.html").read_text() == render(make())


def test_a_run_without_splits_or_steps_still_has_a_page():
    empty = {"step": np.zeros(0, int), "scores": np.zeros((0, 4), np.float32), "mask": np.zeros((0, 4), bool)}
    facts = {**make().training, "layers_selected": None, "layers_with_gradient": None}
    text = render(make(splits={}, metrics=[], losses=[], history=empty, training=facts))
    assert "Intention prediction" in text


def test_the_heat_map_shows_score_and_selection_of_every_cell():
    values, share = np.array([[0.0, 1.0], [1.0, np.nan]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    picture = _rows_of(values, share, Normalize(0, 1))
    stripe = len(picture) // 2
    low, high = (np.array(colormaps["viridis"](v)[:3]) for v in (0.0, 1.0))
    for layer in range(2):
        gap, mark, score = (picture[layer * stripe + row] / 255 for row in (0, 2, stripe - 1))
        assert (gap[..., 3] == 0).all()
        for step in range(2):
            assert mark[step, 3] == share[step, layer]
            if np.isnan(values[step, layer]):
                assert score[step, 3] < 0.5 and np.ptp(score[step, :3]) == 0  # grey
            else:
                assert score[step, :3] == pytest.approx(high if values[step, layer] else low, abs=0.01)
                assert score[step, 3] == 1


def test_many_steps_are_averaged_not_dropped():
    values = np.zeros((5000, 2))
    values[1234, 0] = 1.0
    values[:, 1] = np.nan
    binned = _binned(values, 900)
    assert len(binned) <= 900
    assert binned[:, 0].max() > 0
    assert np.isnan(binned[:, 1]).all()
    drawn = heat_map({"step": np.arange(5000), "scores": np.exp(values), "mask": values > 0}, ["a", "b"])
    assert drawn.count("<svg") == 2
