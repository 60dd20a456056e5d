import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.tasks.intent import IntentConfig
from layerselect.tasks.intent.task import IntentTask
from layerselect.tasks.run.folder import RunFolder, _json_text
from layerselect.tasks.run.importance import _runs
from layerselect.utils.folders import output_path

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=40,
)


@given(JSON)
def test_readable_json_says_the_same(value):
    assert json.loads(_json_text(value)) == value


def test_readable_json_puts_what_fits_on_one_line():
    text = _json_text({"runs": [{"first": i, "layers": [0, 1, 2]} for i in range(20)]})
    assert text.count("\n") == 23


@pytest.fixture
def config(tmp_path):
    return IntentConfig(data="demo", model="demo", out=str(tmp_path / "run"))


def finished(config):
    folder = RunFolder(IntentTask.command, config)
    folder.open()
    (folder.path / "mark").write_text("1")
    return folder.finish()


def test_nothing_is_written_before_open_nor_in_place_before_finish(config, tmp_path):
    folder = RunFolder(IntentTask.command, config)
    assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]  # while somebody writes
    folder.open()
    assert not (tmp_path / "run").exists()
    folder.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_earlier_run_is_replaced_only_on_request(config):
    done = finished(config)
    with pytest.raises(LayerSelectError, match="holds an earlier run.*--overwrite"):
        RunFolder(IntentTask.command, config)
    again = RunFolder(IntentTask.command, config, overwrite=True)
    again.open()
    assert (done / "mark").exists()  # it stands until the new one is complete
    again.finish()
    assert not (done / "mark").exists()


@pytest.mark.parametrize("content", ["{}", "not JSON", '{"command": "other"}', None])
def test_a_foreign_folder_is_never_replaced(config, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    if content is not None:
        (tmp_path / "run" / "config.json").write_text(content)
    with pytest.raises(LayerSelectError, match="no run of layerselect made"):
        RunFolder(IntentTask.command, config, overwrite=True)
    assert (tmp_path / "run" / "thesis.txt").exists()


def test_a_file_is_in_the_way(config, tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(LayerSelectError, match="is a file"):
        RunFolder(IntentTask.command, config, overwrite=True)


def test_an_interrupted_run_is_continued_or_dropped_on_request_only(config):
    first = RunFolder(IntentTask.command, config)
    first.open()
    (first.path / "mark").write_text("1")
    with pytest.raises(LayerSelectError, match="--resume, or drop it with --overwrite"):
        RunFolder(IntentTask.command, config)
    with pytest.raises(LayerSelectError, match="has --lr 0.001, not 0.1"):
        RunFolder(IntentTask.command, replace(config, lr=0.1), resume=True)
    RunFolder(IntentTask.command, config, resume=True).open()
    assert (first.path / "mark").exists()
    RunFolder(IntentTask.command, config, overwrite=True).open()
    assert not (first.path / "mark").exists()


def test_a_process_killed_while_it_opens_a_run_leaves_nothing_that_is_in_the_way(config, tmp_path, monkeypatch):
    def killed(self, name, content):
        raise KeyboardInterrupt

    for resume in (False, True):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(RunFolder, "write_json", killed)
            RunFolder(IntentTask.command, config, resume=resume).open()
        assert not (tmp_path / "run.partial").exists()
    folder = RunFolder(IntentTask.command, config, resume=True)
    folder.open()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".run.lock", "run.partial"]
    assert [path.name for path in folder.path.iterdir()] == ["config.json"]


def test_a_finished_run_has_nothing_to_resume(config, tmp_path):
    done = finished(config)
    (tmp_path / "run.old").mkdir()  # killed while it removed what it had replaced
    folder = RunFolder(IntentTask.command, config, resume=True)
    assert folder.finished
    assert folder.path == done
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with pytest.raises(LayerSelectError, match="finished run .* has --lr 0.001, not 0.1"):
        RunFolder(IntentTask.command, replace(config, lr=0.1), resume=True)
    assert not RunFolder(IntentTask.command, config, resume=True, overwrite=True).finished


def test_the_checkpoints_go_when_the_run_stands(config, tmp_path, monkeypatch):
    folder = RunFolder(IntentTask.command, config)
    folder.open()
    (folder.path / "checkpoints").mkdir()

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("layerselect.tasks.run.folder.discard", killed)
        folder.finish()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", "checkpoints"}
    assert RunFolder(IntentTask.command, config, resume=True).finished
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json"}


def test_lines_after_the_resumed_step_are_written_again(config):
    folder = RunFolder(IntentTask.command, config)
    folder.open()
    for step in (10, 20, 30):
        folder.append_line("metrics.jsonl", {"step": step})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4')  # the process died here
    folder.keep_lines_until("metrics.jsonl", 20)
    assert [line["step"] for line in folder.read_lines("metrics.jsonl")] == [10, 20]


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), max_size=30))
def test_runs_of_equal_selections_can_be_unrolled(masks):
    array = np.array(masks, dtype=bool).reshape(len(masks), 3)
    runs = _runs(np.arange(len(masks)), array)
    unrolled = [run["layers"] for run in runs for _ in range(run["first"], run["last"] + 1)]
    assert unrolled == [np.flatnonzero(mask).tolist() for mask in array]
    assert all(left["layers"] != right["layers"] for left, right in pairwise(runs))


def test_a_second_process_is_refused_and_what_a_killed_one_left_is_taken_over(config, tmp_path, environment):
    program = f"""
import os, signal
from pathlib import Path
from layerselect.utils.folders import Claim
claim = Claim(Path({str(tmp_path / "run")!r}))
print("claimed", flush=True)
signal.pause()
"""
    other = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline().strip() == "claimed"
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(LayerSelectError, match=r"another run is writing to .*run\.partial"):
                RunFolder(IntentTask.command, config, **options)
    finally:
        other.kill()
        other.wait()
    assert (tmp_path / ".run.lock").exists()
    folder = RunFolder(IntentTask.command, config)
    folder.open()
    folder.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    "out", ["", " ", ".", "..", "/", "a/..", "x\0y", "~nobody-here/run", "n" * 300, "taken/run"], ids=ascii
)
def test_places_that_cannot_be_made(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(LayerSelectError, match="^--out "):
        output_path(out)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("out", ["run", "run/", "./run", "deep/er/run", "a b", "ü", "../run", ".hidden"])
def test_places_that_can(out, tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    assert output_path(out).name == out.rstrip("/").rpartition("/")[2]
