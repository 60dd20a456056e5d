"""``compare --launcher``: how runs are started by it, what comes of one that fails, what is refused."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from layerselect import LayerSelectError
from layerselect.tasks.compare import TASKS, CompareConfig, run_compare, workshop
from layerselect.tasks.compare.launching import Means, find_launcher, launcher_words, stop
from layerselect.tasks.compare.runs import train_run

from tests.helpers import tiny_intent

TOLD: list[object] = []
HALF = {"text": "half", "share": 0.5}


def launch(tmp_path: Path, program: str, running: set | None = None) -> str | None:
    """What ``train_run`` says of a launcher that is this program; ``job`` in it is what the worker would be told."""
    script = tmp_path / "launcher.py"
    text = "import json, os, signal, subprocess, sys, time\njob = json.load(open(sys.argv[-1]))\n"
    script.write_text(text + program)
    means = Means(None, (sys.executable, str(script), "--nproc", "2"))
    TOLD.clear()
    running = set() if running is None else running
    reason = train_run("intent", {"seed": 3}, tmp_path / "run.log", means, running, TOLD.append, TOLD.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["launcher.py", "run.log"]
    return reason


def test_the_launcher_is_given_the_worker_and_the_job(tmp_path):
    parts = f"print('so far: half')\nprint('so far: ' + json.dumps({HALF}))"  # the first is not a worker's
    program = f"print(json.dumps([sys.argv[1:-1], job]))\nprint('note: shown')\n{parts}"
    assert launch(tmp_path, program) is None
    arguments, job = json.loads((tmp_path / "run.log").read_text().split("\n")[0])
    assert arguments == ["--nproc", "2", "-m", "layerselect.tasks.compare.worker"]
    assert job == {"task": "intent", "settings": {"seed": 3}}
    assert TOLD == ["shown", HALF]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print('usage: it')\nprint('====')\nprint('error: no --nproc')\nsys.exit(2)", "usage: it; error: no --nproc"),
        ("sys.exit(4)", "ended with status 4: it wrote nothing"),
        ("print('here')\nsys.stdout.flush()\nos.kill(os.getpid(), signal.SIGKILL)", "ended with status -9: here"),
        ("raise RuntimeError('no rendezvous')", "RuntimeError: no rendezvous"),
    ],
)
def test_a_launcher_that_fails_is_told_of_by_its_last_lines(tmp_path, program, said):
    reason = launch(tmp_path, program)
    assert said in reason and "\n" not in reason
    assert reason.startswith(f"the launcher {sys.executable} ended with status")


def test_what_a_process_says_of_its_failure_comes_before_what_the_launcher_adds(tmp_path):
    reason = launch(tmp_path, "print('failed: one is gone')\nprint('failed: two')\nprint('elastic: exit')\nsys.exit(1)")
    assert reason == "one is gone"


def test_a_launcher_that_cannot_be_started(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("\0")
    broken.chmod(0o755)
    reason = train_run("intent", {}, tmp_path / "run.log", Means(None, (str(broken),)), set(), print, print)
    assert reason.startswith(f"{broken} cannot be started: ")
    assert not (tmp_path / "run.job.json").exists()


ORPHAN = (
    "orphan = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
    "print(f'note: {orphan.pid}')\nsys.stdout.flush()\n"
)


def is_gone(pid: int) -> bool:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(") ")[2].startswith("Z"):
            return True
        time.sleep(0.02)
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for a process in /proc")


@needs_proc
def test_nothing_outlives_a_launcher(tmp_path):
    """Its processes hold its output open: nobody would see that it is gone."""
    launch(tmp_path, ORPHAN + "os._exit(1)")
    assert is_gone(int(TOLD[0]))


@needs_proc
def test_an_interruption_ends_the_launcher_and_its_processes(tmp_path):
    running: set[subprocess.Popen[str]] = set()

    def interrupt() -> None:
        while not TOLD:
            time.sleep(0.01)
        stop(next(iter(running)))

    watching = threading.Thread(target=interrupt)
    TOLD.clear()
    watching.start()
    assert "status -15" in launch(tmp_path, ORPHAN + "time.sleep(300)", running)
    watching.join()
    assert is_gone(int(TOLD[0]))


@pytest.fixture(scope="module")
def config(bert_folder, tmp_path_factory) -> CompareConfig:
    place = tmp_path_factory.mktemp("launched")
    base = {"data": str(tiny_intent.corpus_file(place)), "model": str(bert_folder), "max_steps": 2, "device": "cpu"}
    return CompareConfig(out=str(place / "c"), base=base, methods=("all",), seeds=1, bootstrap=20)


def in_this_process(task, settings, log, means, *rest):
    TASKS[task].run(TASKS[task].config(**settings))


def test_finished_runs_are_kept_and_not_mixed_with_those_of_a_launcher(config, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(workshop, "train_run", in_this_process)
        run_compare(config)
    launched = replace(config, launcher=f"{shlex.quote(sys.executable)} -c 'raise SystemExit(3)'", seeds=2)
    with pytest.raises(LayerSelectError, match="in one process, which makes other steps: leave out --launcher"):
        run_compare(launched)
    costs = Path(config.out) / "kept" / "all-lora-seed0.costs.json"
    content = json.loads(costs.read_text())
    content["training"]["processes"] = 2
    costs.write_text(json.dumps(content))
    with pytest.raises(LayerSelectError, match="in 2 processes: give their --launcher again"):
        run_compare(replace(config, seeds=2))
    kept = {path.name: path.read_bytes() for path in costs.parent.iterdir()}
    comparison = run_compare(launched)
    assert [result.reason is None for result in comparison.results] == [True, False]
    assert "ended with status 3" in comparison.failed[0].reason
    assert {path.name: path.read_bytes() for path in costs.parent.iterdir()} == kept
    monkeypatch.setattr(workshop, "train_run", in_this_process)
    reason = run_compare(launched).failed[0].reason
    assert "trained in 1 and other runs in 2 processes" in reason


@pytest.mark.parametrize("text", ["", "  ", "torchrun 'x"])
def test_a_launcher_is_a_command(config, text):
    with pytest.raises(LayerSelectError, match="is no command: write one such as 'torchrun"):
        replace(config, launcher=text)


def test_words_are_those_of_a_shell():
    assert launcher_words("torchrun --rdzv-conf 'a b' --nproc-per-node 2")[1:3] == ("--rdzv-conf", "a b")
    assert launcher_words(None) == find_launcher(()) == ()


def test_a_launcher_that_is_not_here_is_refused_before_anything_is_written(config, tmp_path):
    asked = replace(config, launcher="no-such-program --nproc 2", out=str(tmp_path / "c"))
    with pytest.raises(LayerSelectError, match="there is no program 'no-such-program' here"):
        run_compare(asked)
    assert list(tmp_path.iterdir()) == []


def test_a_launcher_beside_this_python_is_found(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert Path(find_launcher((Path(sys.executable).name, "-V"))[0]).parent == Path(sys.executable).parent


def test_one_run_at_a_time(config):
    with pytest.raises(LayerSelectError, match="--jobs 2 with --launcher: .*use --jobs 1"):
        replace(config, launcher="torchrun", jobs=2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"state_cache": "auto"}, "--state-cache auto"), ({"fsdp": True, "quantize": "4bit"}, "--quantize 4bit")],
)
def test_what_several_processes_cannot_do_is_said_before_they_start(config, tmp_path, settings, words):
    asked = replace(config, launcher=sys.executable, out=str(tmp_path / "c"), base={**config.base, **settings})
    with pytest.raises(LayerSelectError, match=words):
        run_compare(asked)
    assert list(tmp_path.iterdir()) == []
