"""What loggers, the console and the Trainer's own history get to see."""

from __future__ import annotations

import numpy as np
import pytest
from layerselect.integrations.transformers import SelectorCallback
from transformers import TrainerCallback

from tests.integrations.trainers import build, train


def read_events(folder):
    """Every scalar series of a run: tag -> {step: value}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_the_selection(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    callback = SelectorCallback(rule="threshold:gamma=0.3", mode="observe")
    train(tmp_path, callback, report_to=["tensorboard"], logging_steps=2, save_strategy="no")
    series = read_events(tmp_path / "events")
    rows = callback.selector.history.arrays()
    logged = [2, 4, 6, 8]
    for layer in range(4):
        found = series[f"train/layerselect/score/{layer}"]
        assert found == pytest.approx({step: rows["scores"][step - 1, layer] for step in logged})
    counts = {step: int(rows["mask"][step - 1].sum()) for step in logged}
    assert len(set(counts.values())) > 1  # there is something to see
    assert series["train/layerselect/num_trained"] == counts
    lowest = {step: int(rows["mask"][step - 1].argmax()) if counts[step] else -1 for step in logged}
    assert series["train/layerselect/lowest_trained"] == lowest
    assert series["train/layerselect/threshold"] == pytest.approx(dict.fromkeys(logged, np.float32(0.3)))
    assert set(series["train/loss"]) == set(logged)


class Listens(TrainerCallback):
    def __init__(self) -> None:
        self.lines: list[dict] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.lines.append(dict(logs))


SCORES = {f"layerselect/score/{layer}" for layer in range(4)}
FACTS = {"layerselect/num_trained", "layerselect/lowest_trained", "layerselect/threshold"}


@pytest.mark.parametrize("log_scores", [True, False])
def test_every_logger_wherever_it_stands_gets_the_same(tmp_path, capsys, log_scores):
    before, after, last = Listens(), Listens(), Listens()
    callback = SelectorCallback(mode="gate", log_scores=log_scores)
    trainer = build(tmp_path, before, callback, after, save_strategy="no", max_steps=3)
    trainer.add_callback(last)  # after the console
    trainer.train()
    *lines, summary = before.lines
    assert len(lines) == 3
    assert lines == after.lines[:3] == last.lines[:3]
    for line in lines:
        assert set(line) >= FACTS
        assert (set(line) & SCORES) == (SCORES if log_scores else set())
    assert not any(name.startswith("layerselect/") for name in summary)


def test_the_console_and_the_history_are_not_flooded(tmp_path, capsys):
    trainer = train(tmp_path, SelectorCallback(mode="gate"), save_strategy="no", max_steps=3)
    printed = capsys.readouterr().out
    assert printed.count("layerselect/num_trained") == 3
    assert "score" not in printed
    for row in trainer.state.log_history[:3]:
        assert set(row) >= FACTS
        assert not set(row) & SCORES


def test_a_budget_logs_what_it_keeps_and_what_that_costs(tmp_path):
    listens = Listens()
    callback = SelectorCallback(rule='cost-aware:base="all";costs=[4,3,2,1]', mode="gate")
    train(tmp_path, listens, callback, save_strategy="no", max_steps=2)
    line = listens.lines[1]
    assert (
        line["layerselect/step_cost"]
        == callback.selector.step_cost
        == {1: 0.25, 2: 0.5}[line["layerselect/num_trained"]]
    )
    assert line["layerselect/kept_share"] == callback.selector.kept_share
    assert 0.0 < line["layerselect/kept_share"] < 1.0


def test_evaluations_say_nothing_about_the_selection(tmp_path):
    listens = Listens()
    train(
        tmp_path,
        listens,
        SelectorCallback(mode="gate"),
        evaluates=True,
        eval_strategy="steps",
        eval_steps=2,
        max_steps=2,
        save_strategy="no",
    )
    evaluation = next(line for line in listens.lines if "eval_loss" in line)
    assert not any(name.startswith("layerselect/") for name in evaluation)


def test_a_rule_without_a_threshold_logs_none_and_layers_never_measured_no_score(tmp_path):
    """Layer 3 alone takes gradients, so the others have no score."""
    listens = Listens()
    train(tmp_path, listens, SelectorCallback(rule="fixed:layers=[3]", mode="freeze"), save_strategy="no", max_steps=2)
    assert {name for name in listens.lines[0] if name.startswith("layerselect/")} == {
        "layerselect/num_trained",
        "layerselect/lowest_trained",
        "layerselect/score/3",
    }
