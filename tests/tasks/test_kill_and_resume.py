"""The program that disturbs runs and resumes them: one run disturbed in every way, and that it sees a difference."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.distributed.forked import fork
from tests.helpers import disturbed, kill_and_resume
from tests.helpers.disturbed import WAYS, Attempt, Disturbance, fork_command, spawn

#: Threads that torch starts for a GPU do not come along into a fork; there `make kill` does it.
forks = pytest.mark.skipif(
    not hasattr(os, "fork") or torch.cuda.is_available(), reason="no fork here, or torch has threads for a GPU"
)
OPTIONS = ["--max-steps", "5", "--save-steps", "2", "--batch-size", "16", "--probe-every", "2"]


@forks
def test_a_run_disturbed_in_every_way_ends_the_same(capsys, monkeypatch):
    """In turn, each time at a change of files, since those are the same on a slow machine."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    turns, met = iter(WAYS), []

    def drawn(args, draw, expected, longest):
        # A second run comes early, before a checkpoint is there; the others after more and more of the run.
        way = next(turns)
        part = {"second": 0.2, "kill": 0.3, "interrupt": 0.4, "full": 0.5, "limit": 0.5, "read-only": 0.6}[way]
        met.append(Disturbance(way, change=int(expected.changes[0] * part), size=3000))
        return met[-1]

    monkeypatch.setattr(kill_and_resume, "_drawn", drawn)
    status = kill_and_resume.main(["--kills", "6", "--at", "operations", "--by", *WAYS, "--", *OPTIONS])
    said = capsys.readouterr().out
    assert status == 0, said
    assert [each.way for each in met] == list(WAYS) and "the same" in said
    for ended in ("ended (-9,)", "ended (130,)", "ended (2,)", "a second ended (2,)"):
        assert ended in said, said


@forks
@pytest.mark.parametrize("command", ["intent", "revise", "compare", "card", "demo"])
@pytest.mark.parametrize("way", ["full", "read-only"])
def test_a_command_that_can_write_nothing_says_so_and_leaves_nothing(tmp_path, command, way):
    arguments = [command, *([] if command == "demo" else ["--data", "demo", "--model", "demo"]), "--out"]
    place = tmp_path / "place"
    place.mkdir()
    attempt = fork_command([*arguments, str(place / "out")], Disturbance(way, change=1), tmp_path / "log")
    assert attempt.statuses == (2,) and attempt.fault(way) is None, attempt.said
    assert "nothing can be written in" in attempt.said[0] and not [*place.iterdir()]


@forks
def test_a_process_is_disturbed_in_time(tmp_path):
    killed = spawn(["doctor"], Disturbance("kill", seconds=0.05), tmp_path / "log")
    assert killed.statuses == (-signal.SIGKILL,) and killed.fault("kill") is None
    assert killed.fault(None) is not None
    refused = fork_command(["no-such-command"], None, tmp_path / "log")
    assert refused.statuses == (2,) and "no-such-command" in refused.said[0]


def ended(status: int, text: str = "", *, second: Attempt | None = None) -> Attempt:
    return Attempt((status,), 0.1, (text,), second=second)


WHY = "layerselect: the disk is full\n"


@pytest.mark.parametrize(
    ("attempt", "way", "right"),
    [
        (ended(0), None, True),
        (ended(-9), "kill", True),
        (ended(-9), "interrupt", False),
        (ended(130, "layerselect: interrupted\n"), "interrupt", True),
        (ended(130), "interrupt", False),
        (ended(0, "Exception ignored in\nTraceback (most recent call last)\n"), "interrupt", False),
        (ended(2, WHY), "full", True),
        (ended(2, WHY + WHY), "full", False),
        (ended(70, "Traceback (most recent call last)\n"), "full", False),
        (ended(2, WHY), "kill", False),
        (ended(0, second=ended(2, "layerselect: another run is writing to it\n")), "second", True),
        (ended(0, second=ended(2, WHY)), "second", False),
        (ended(2, WHY, second=ended(0)), "second", False),
    ],
)
def test_how_a_run_may_end(attempt, way, right):
    assert (attempt.fault(way) is None) is right


@forks
def test_what_a_killed_process_leaves_waiting_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(disturbed, "_GRACE", 0.05)
    monkeypatch.setattr(disturbed, "_LAST_GRACE", 0.1)

    def begin(name):
        def waits(deaf):
            signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else signal.SIG_DFL)
            time.sleep(60)

        calls = (lambda: waits(False), lambda: waits(True), lambda: 2)
        return [fork(call, tmp_path / f"log-{number}.log") for number, call in enumerate(calls)]

    assert disturbed._follow(begin, None, tmp_path / "log").statuses == (-15, -9, 2)


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


@pytest.mark.parametrize("broken", [1, 2])
def test_a_command_that_fails_is_no_success(capsys, monkeypatch, tmp_path, broken):
    """The first run, or one that is to be disturbed."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    count = 0

    def start(arguments, disturbance, logs):
        nonlocal count
        count += 1
        if count == broken:
            return ended(2, "layerselect: something is wrong\n")
        write_run(Path(arguments[-1]).parent)
        return Attempt((0,), 0.1, ("",), (7,))

    monkeypatch.setattr(kill_and_resume, "fork_command", lambda *args, processes: start(*args))
    assert kill_and_resume.main(["--kills", "1", "--at", "operations"]) == 1
    assert "something is wrong" in capsys.readouterr().out


def test_a_run_that_hangs_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(disturbed, "_PATIENCE", 0.05)
    monkeypatch.setattr(disturbed.subprocess, "Popen", lambda command, **options: Sleeper())
    with pytest.raises(TimeoutError, match="does not end"):
        spawn(["doctor"], None, tmp_path / "log")


class Sleeper:
    def __init__(self) -> None:
        self.pid = os.fork()
        if not self.pid:
            signal.pause()
