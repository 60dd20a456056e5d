"""What a user sees while a command works: on a terminal one line, elsewhere a plain line after a silence."""

from __future__ import annotations

import io
import time

import pytest
from layerselect.cli.compare_display import RunDisplay
from layerselect.cli.display import TrainingDisplay
from layerselect.cli.pilot_display import PilotDisplay
from layerselect.cli.progress import StageLine, _clock
from layerselect.report.after_run import stages_line
from layerselect.selector.savings import savings_line


def wait_for(capsys, words):
    """What stderr has shown when these words have come."""
    seen, end = "", time.monotonic() + 20
    while words not in seen and time.monotonic() < end:
        time.sleep(0.02)
        seen += capsys.readouterr().err
    return seen


def test_a_silence_is_broken_by_a_line_of_what_goes_on(capsys):
    with StageLine(silence=0.1) as line:
        line.begin("loading [v1]")
        assert "loading [v1], 0:00 so far\n" in wait_for(capsys, "loading")
        line.begin("training", total=40)
        line.advance(12)
        line.facts("loss 0.5")
        seen = wait_for(capsys, "12 of 40")
        assert "training, 12 of 40, " in seen and seen.rstrip().endswith("loss 0.5")
    time.sleep(0.3)
    assert capsys.readouterr().err == ""


def test_a_stage_that_counts_nothing_does_not_show_what_another_counted(capsys):
    with StageLine(silence=0.1) as line:
        line.begin("training", total=40)
        line.advance(40, 40)
        line.begin("writing")
        seen = wait_for(capsys, "writing, ")
    assert "writing, 0:00 so far\n" in seen and "of 40" not in seen.partition("writing")[2]


def test_what_was_done_before_says_nothing_of_how_fast_it_goes(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("layerselect.cli.progress.time.monotonic", lambda: now[0])
    line = StageLine()
    line.begin("runs")
    line.advance(70, 160)
    now[0] += 5
    assert line._line() == "runs, 70 of 160, 0:00 so far"
    now[0] += 235
    line.advance(71)
    assert line._line() == "runs, 71 of 160, 5:56:00 left"  # a run took four minutes, and 89 are left


def test_what_is_found_one_by_one_says_nothing_of_how_fast_it_goes(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("layerselect.cli.progress.time.monotonic", lambda: now[0])
    with RunDisplay() as compare, PilotDisplay() as pilot:
        for done in range(1, 9):
            compare("run", {"name": f"old-{done}", "state": "kept", "done": done, "runs": 20})
        compare("run", {"name": "new", "state": "started", "done": 8, "runs": 20})
        pilot.begin("training", 20)
        for _ in range(8):
            pilot("trained", {"candidate": "all", "idle": False})
        now[0] += 60
        assert compare._line() == "runs, 8 of 20, 0:00 so far, new: starting"
        assert pilot._line() == "training, 8 of 20, 0:00 so far"
        compare("run", {"name": "new", "state": "finished", "done": 9, "runs": 20, "seconds": 60.0})
        pilot("training", {"candidate": "head", "seed": 0, "fold": 0})
        pilot("trained", {"candidate": "head", "idle": False})
        assert compare._line() == "runs, 9 of 20, 11:00 left"
        assert pilot._line().startswith("training, 9 of 20, 11:00 left")


def test_the_steps_of_runs_tell_how_long_a_comparison_takes(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("layerselect.cli.progress.time.monotonic", lambda: now[0])
    with RunDisplay() as compare:
        for name in ("one", "two"):
            compare("run", {"name": name, "state": "started", "done": 0, "runs": 4})
        now[0] += 100
        compare("part", {"name": "one", "text": "training 5 of 100", "share": 0.05})
        assert compare._line().startswith("runs, 0 of 4, 2:11:40 left")  # a twentieth of a run in 100 s
        now[0] += 900
        compare("part", {"name": "one", "text": "training 50 of 100", "share": 0.50})
        # It was begun before, as its first word says.
        compare("part", {"name": "two", "text": "training 50 of 100", "share": 0.50})
        assert compare._line().startswith("runs, 0 of 4, ") and compare._line().count("left") == 0
        now[0] += 100
        compare("part", {"name": "two", "text": "training 60 of 100", "share": 0.60})
        compare("part", {"name": "one", "text": "revising test 3 of 9"})
        assert compare._line().startswith("runs, 0 of 4, 48:19 left")
        compare("run", {"name": "two", "state": "failed", "reason": "r", "done": 1, "runs": 4})
        assert compare._line().startswith("runs, 1 of 4, ") and "two" not in compare._line()


def test_who_says_something_is_not_interrupted(capsys):
    with StageLine(silence=60.0) as line:
        line.begin("loading")
        line.say("a [line] of its own")
        time.sleep(0.2)
    assert capsys.readouterr().err == "a [line] of its own\n"


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_on_a_terminal_the_line_fits(monkeypatch, columns):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    with TrainingDisplay() as display:
        display("stage", {"name": "training"})
        display("step", {"step": 3, "steps": 400})
        display("train", {"loss": 0.512, "num_trained": 4, "step": 3})
        display("eval", {"split": "validation", "epoch": 1.0, "step": 3, "macro_f1": 0.5, "loss": 1.0})
        shown = display._progress.get_renderable()
        lines = display._console.render_lines(shown, pad=False)
        text = ["".join(part.text for part in line) for line in lines]
    assert len(text) == 1 and len(text[0]) <= columns
    assert text[0].startswith("training 3 of 400")


def test_a_stage_goes_on_where_an_evaluation_has_interrupted_it(capsys):
    display = TrainingDisplay()
    display("stage", {"name": "training"})
    display("step", {"step": 30, "steps": 60})
    display("stage", {"name": "evaluation"})
    assert display._line().startswith("evaluation")
    display("stage", {"name": "training"})
    assert display._line().startswith("training, 30 of 60")
    display("phase", {"name": "generator"})
    display("stage", {"name": "revising"})
    display("revise", {"split": "test", "done": 2, "examples": 8})
    assert display._line().startswith("generator: revising, 2 of 8")


def test_a_comparison_shows_the_whole_and_the_part():
    display = RunDisplay()
    display.begin("runs")
    display("run", {"name": "ir-0", "state": "started", "done": 1, "runs": 6})
    display("part", {"name": "ir-0", "text": "training 20 of 60"})
    assert display._line().startswith("runs, 1 of 6") and display._line().endswith("ir-0: training 20 of 60")
    display("run", {"name": "ir-0", "state": "finished", "done": 2, "runs": 6, "seconds": 3.0})
    assert "ir-0" not in display._line()


def test_times_and_savings_in_words():
    assert [_clock(seconds) for seconds in (0, 59.9, 60, 3725)] == ["0:00", "0:59", "1:00", "1:02:05"]
    facts = {
        "step_share": 0.62,
        "step_share_from": "counted",
        "activation_share": 0.5,
        "activation_share_from": "measured",
    }
    facts |= {"optimizer_share": None, "lowest_layers": {"3": 30, "0": 10}, "steps": 40}
    assert savings_line(facts) == (
        "beside training all layers: 62% of a step's arithmetic (counted), 50% of its activations (measured); the "
        "lowest layer that took gradients was layer 3 in 75%, layer 0 in 25% of the steps"
    )
    assert savings_line({**facts, "lowest_layers": {}}).endswith("; no layer trained")
    kept = {"optimizer_share": 0.9, "optimizer_bytes": {"layers": 2_000_000, "embeddings": 0, "head": 30_000_000}}
    assert "90% of the optimizer's memory (layers 2 MB, head 30 MB); the lowest" in savings_line({**facts, **kept})
    assert "memory; the lowest" in savings_line({**facts, **kept, "optimizer_bytes": {"layers": 2_000_000}})
    assert savings_line({"steps": 3}) is None and stages_line({}) is None
    assert stages_line({"stages": {"loading": 1.26, "training": 2.0}}) == "3 s in all: loading 1.3, training 2.0"
