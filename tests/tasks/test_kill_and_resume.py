"""The script that kills and resumes: two kills on a tiny model, and that it would notice a difference."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import kill_and_resume

SCRIPT = Path(kill_and_resume.__file__)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_two_kills_change_nothing(corpus_path, bert_folder, environment):
    """At two changes of files, since those are the same on a slow machine."""
    options = ["--data", str(corpus_path), "--model", str(bert_folder), "--batch-size", "8", "--max-steps", "19"]
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "2", "--seed", "0", "--at", "operations", "--", *options],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 kills" in ended.stdout
    assert "the same" in ended.stdout


def test_a_process_is_killed_in_time():
    assert kill_and_resume.spawn(["doctor"], 0.05, None).status == -signal.SIGKILL
    ended = kill_and_resume.spawn(["no-such-command"], None, None)
    assert ended.status == 2
    assert "no-such-command" in ended.said


def write_run(folder: Path) -> Path:
    out = folder / "out"
    (out / "adapter").mkdir(parents=True)
    (out / "adapter" / "weights").write_bytes(b"1")
    (out / "metrics.jsonl").write_text("{}\n")
    (out / "report.html").write_text("seconds differ")
    return out


def test_it_notices_what_differs(tmp_path):
    one, other = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    (other / "report.html").write_text("and may")
    assert kill_and_resume.digest(one) == kill_and_resume.digest(other)
    (other / "adapter" / "weights").write_bytes(b"2")
    (other / "predictions.jsonl").write_text("")
    (other.parent / "out.partial").mkdir()
    assert kill_and_resume.digest(one) != kill_and_resume.digest(other)
    assert kill_and_resume.first_difference(other, one) == "adapter/weights, predictions.jsonl, out.partial"


def test_a_command_that_fails_is_no_success(capsys, monkeypatch):
    monkeypatch.setattr(
        kill_and_resume, "spawn", lambda *_: kill_and_resume.Attempt(2, 0.1, "layerselect: something is wrong")
    )
    assert kill_and_resume.main(["--kills", "1"]) == 1
    assert "something is wrong" in capsys.readouterr().out
