"""Selected and trained are told apart, in the file, the pages, the figures and the final line."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from layerselect import FastSelector
from layerselect.cli.display import layers_line, training_line
from layerselect.report.figures import frequency_bars
from layerselect.report.heat_map import IDLE, TRAINED, _rows_of, heat_map
from layerselect.report.intent import render
from layerselect.report.selection import SelectionShares, lacking
from layerselect.tasks.run.importance import importance, trained_frequency
from matplotlib.colors import Normalize, to_rgb

from tests.helpers.models import plain, plain_loss
from tests.report.test_intent_report import Page, make

HISTORY = {
    "step": np.arange(4),
    "scores": np.ones((4, 2), np.float32),
    "mask": np.array([[1, 1], [1, 0], [0, 1], [1, 0]], bool),
    "trained": np.array([[1, 1], [0, 1], [0, 1], [1, 0]], bool),
}


def text_of(**changes):
    return " ".join(Page(render(make(**changes))).text.split())


def page_of(history):
    layers = history["mask"].shape[1]
    names = [f"layer {i}" for i in range(layers)]
    return text_of(history=history, layer_names=names, frequency=[0] * layers)


def test_shares_and_their_sentence():
    shares = SelectionShares.of(HISTORY)
    assert shares == SelectionShares(4, [3, 2], [2, 2])
    assert (
        "selected in 62% and trained in 50% of the steps. Where it was selected and did not train" in shares.sentence()
    )
    same = SelectionShares.of({**HISTORY, "trained": np.ones((4, 2), bool)})
    assert same.sentence() == "On average a layer was selected in 62% and trained in 62% of the steps."
    early = SelectionShares.of({name: HISTORY[name] for name in ("step", "scores", "mask")})
    assert early.trained is None and early.sentence() == "On average a layer was selected in 62% of the steps."
    none = {"mask": np.zeros((0, 2), bool), "trained": np.zeros((0, 2), bool)}
    assert SelectionShares.of(none).sentence() == ""


def test_the_page_says_both():
    assert "selected in 62% and trained in 50% of the steps" in page_of(HISTORY)


def test_what_the_history_lacks_is_said():
    assert lacking(HISTORY) == ""
    late = {**HISTORY, "step": np.array([20_000, 20_001, 20_002, 20_003])}
    assert lacking(late) == "The history holds 4 of the run's 20,004 steps, the first of them step 20,000."
    assert lacking(late) in page_of(late)


def test_a_selection_without_a_gradient_has_another_colour():
    share, idle = np.array([[1.0, 1.0, 0.0, 0.5]]).T, np.array([[0.0, 1.0, 0.0, 0.5]]).T
    picture = _rows_of(np.ones((4, 1)), share, Normalize(0, 1), idle) / 255
    trained, unfed, none, half = picture[2]
    assert trained == pytest.approx([*to_rgb(TRAINED), 1], abs=0.01)
    assert unfed == pytest.approx([*to_rgb(IDLE), 1], abs=0.01)
    assert none[3] == 0
    assert half == pytest.approx([*to_rgb(IDLE), 0.5], abs=0.01)  # paler, since only half of its steps selected it


@pytest.mark.parametrize("layers", [2, 40])
def test_the_figures_are_drawn(layers):
    steps = 3000
    random = np.random.default_rng(0)
    history = {
        "step": np.arange(steps),
        "scores": random.random((steps, layers)).astype(np.float32),
        "mask": random.random((steps, layers)) > 0.5,
        "trained": random.random((steps, layers)) > 0.3,
    }
    assert heat_map(history, [""] * layers) != heat_map({**history, "trained": history["mask"]}, [""] * layers)
    shares = SelectionShares.of(history)
    both = frequency_bars(shares.selected, shares.steps, shares.trained)
    assert both != frequency_bars(shares.selected, shares.steps)


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_importance_tells_selections_that_trained(mode, interval):
    model = plain()
    with FastSelector(model, "topk:k=2", mode=mode, interval=interval, probe_every=4, lag=1) as selector:
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.5)
        selector.attach(optimizer)
        for step in range(30):
            plain_loss(model, step).backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
        found, rows = importance(selector), selector.history.arrays()
        selecting = rows["step"] % interval == 0
        assert found["frequency"] == rows["mask"][selecting].sum(axis=0).tolist()
        expected = (rows["mask"] & rows["trained"])[selecting].sum(axis=0).tolist()
        assert found["trained_frequency"] == trained_frequency(selector, rows) == expected
        assert found["steps"] == 30 and "history_steps" not in found
        if mode == "gate":
            assert expected == found["frequency"]
        elif interval == 1:
            assert sum(expected) < sum(found["frequency"])


def test_importance_of_a_bounded_history():
    model = plain()
    with FastSelector(model, "topk:k=2", mode="gate", history=5) as selector:
        for step in range(9):
            plain_loss(model, step).backward()
            selector.step()
            model.zero_grad()
        found = importance(selector)
    assert (found["steps"], found["history_steps"]) == (9, 5)
    assert sum(found["frequency"]) == 18 and found["selections"][0]["first"] == 4


def test_the_final_line():
    facts = {"layers_selected": 4.92, "layers_trained": 4.32, "num_layers": 12, "steps": 100, "seconds_per_step": None}
    line = layers_line(facts)
    assert line.startswith("4.9 of 12 layers selected on average, 4.3 trained")
    assert re.search(r"selected in 41% and trained in 36% of the steps", line)
    assert training_line(facts) == f"100 steps; {line}"
    early = {name: value for name, value in facts.items() if name != "layers_trained"}
    assert layers_line(early) == "4.9 of 12 layers selected on average"
    assert layers_line({**facts, "layers_selected": None, "layers_trained": None}) == "no layer selected"
