"""Kills ``layerselect intent`` with SIGKILL at random moments, resumes it until it is finished, and compares what it
leaves.

    python tests/helpers/kill_and_resume.py --kills 20 --seed 0
    python tests/helpers/kill_and_resume.py --kills 100 --at operations
    python tests/helpers/kill_and_resume.py --kills 20 -- --adapter none --patience 1 --epochs 6

Trains a small LoRA classifier on the demo corpus once without a kill. Then again, each attempt killed after a time
drawn uniformly from the duration of the first run, until a run is finished; then the next run, until all kills are
spent. Weights, importance, history, metrics, losses and predictions must be the same, byte for byte, and nothing else
may lie beside the finished folder. ``--at operations`` draws one of the run's changes of files instead (opened for
writing, renamed, removed) and kills right before it. What follows ``--`` is added to the command's options. Exit status
1: something differed.

``--fork`` starts each attempt from a process that has imported everything, so that nearly all kills hit work, not
imports.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = [
    "intent",
    "--data",
    "demo",
    "--model",
    "demo",
    "--adapter",
    "lora",
    "--lr",
    "3e-3",
    "--batch-size",
    "32",
    "--epochs",
    "2",
    "--save-steps",
    "7",
    "--probe-every",
    "5",
    "--threads",
    "1",
    "--device",
    "cpu",
]
#: What a killed run must have in common with one that was not.
COMPARED = ("adapter", "importance.json", "history.safetensors", "metrics.jsonl", "training.jsonl", "predictions.jsonl")


@dataclass(frozen=True)
class Attempt:
    """How one process ended: its exit status (-9: killed), after how many seconds, what it said on stderr."""

    status: int
    seconds: float
    said: str


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="(default: 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (default: 0)")
    parser.add_argument("--at", choices=("times", "operations"), default="times", help="(default: times)")
    parser.add_argument("--fork", action="store_true", help="import once for all attempts (implied by --at operations)")
    parser.add_argument(
        "options", nargs="*", metavar="-- OPTION", help="of layerselect intent, added to the built-in ones"
    )
    args = parser.parse_args(argv)
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    draw = random.Random(args.seed)
    start = fork if args.fork or args.at == "operations" else spawn
    console, table = Console(), Table("run", "attempt", "killed", "found then", "outcome")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        command = [*ARGUMENTS, *args.options, "--resume", "--out"]
        counted = folder / "operations"
        expected = start([*command, str(folder / "whole")], None, counted if args.at == "operations" else None)
        if expected.status != 0:
            return _broken(console, expected)
        whole = digest(folder / "whole")
        operations = int(counted.read_text()) if args.at == "operations" else 0
        console.print(
            f"never killed: {expected.seconds:.1f} s, {operations or 'uncounted'} changes of files, {short(whole)}"
        )
        run = attempt = kills = different = 0
        while kills < args.kills or attempt:
            out = folder / f"run{run}" / "out"
            out.parent.mkdir(exist_ok=True)
            moment = draw.randrange(1, operations + 1) if operations else draw.uniform(0, expected.seconds)
            spared = kills == args.kills
            ended = start([*command, str(out)], None if spared else moment, None)
            attempt += 1
            if ended.status == -signal.SIGKILL:
                kills += 1
                when = f"before change {moment}" if operations else f"after {moment:.2f} s"
                table.add_row(str(run), str(attempt), when, found(out), "")
            elif ended.status == 0:
                same = digest(out) == whole and [path.name for path in out.parent.iterdir()] == ["out"]
                different += not same
                table.add_row(
                    str(run),
                    str(attempt),
                    "",
                    "finished",
                    "the same" if same else f"DIFFERS: {first_difference(out, folder / 'whole')}",
                    end_section=True,
                )
                shutil.rmtree(out.parent)
                run, attempt = run + 1, 0
            else:
                console.print(table)
                return _broken(console, ended)
        console.print(table)
        console.print(
            f"{kills} kills, {run} runs, {different} of them different from the one never killed", style="bold"
        )
    return 1 if different else 0


def spawn(arguments: list[str], seconds: float | None, counted: Path | None) -> Attempt:
    """The real command, killed after ``seconds``."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "layerselect", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        said = process.communicate()[1]
    return Attempt(process.returncode, time.monotonic() - begin, said)


def fork(arguments: list[str], moment: float | None, counted: Path | None) -> Attempt:
    """The command in a copy of this process, killed after ``moment`` seconds or, where that is a whole number, by
    itself right before that change of a file. ``counted`` receives the number of changes.
    """
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    import layerselect.tasks.intent  # noqa: F401  (imported once, for all children)
    from layerselect.cli import main as command

    begin = time.monotonic()
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            _child(command, arguments, moment if isinstance(moment, int) else None, counted, said.fileno())
        status = _wait(child, moment if isinstance(moment, float) else None)
        said.seek(0)
        return Attempt(status, time.monotonic() - begin, said.read().decode())


def _wait(child: int, seconds: float | None) -> int:
    deadline = None if seconds is None else time.monotonic() + seconds
    while deadline is not None:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _child(
    command: Callable[[list[str]], int], arguments: list[str], operation: int | None, counted: Path | None, said: int
) -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(said, 2)
    number = 0

    def watch(event: str, values: tuple) -> None:
        """Sees every change of a file that Python makes: an audit hook."""
        nonlocal number
        writes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") or (
            event == "open" and isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if writes and str(Path(arguments[-1]).parent) in str(values[0]):
            number += 1
            if number == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    status = 70
    try:
        status = command(arguments)
        if counted is not None:
            counted.write_text(str(number))
    finally:
        sys.stderr.flush()
        os._exit(status)


def digest(out: Path) -> dict[str, str]:
    """A checksum for each file that is compared. Where the run lies, which an adapter's settings name, is left out."""
    files = [path for name in COMPARED for path in sorted([out / name, *(out / name).rglob("*")]) if path.is_file()]
    place = str(out.resolve()).encode()
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes().replace(place, b"")).hexdigest() for path in files
    }


def short(digests: dict[str, str]) -> str:
    return f"{len(digests)} files, {hashlib.sha256(str(digests).encode()).hexdigest()[:12]}"


def first_difference(out: Path, whole: Path) -> str:
    ours, theirs = digest(out), digest(whole)
    names = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    left = sorted(path.name for path in out.parent.iterdir() if path.name != "out")
    return ", ".join(names + left)


def found(out: Path) -> str:
    """What the kill left."""
    partial = out.with_name("out.partial")
    if out.exists():
        return "the finished run"
    names = sorted(path.name for path in (partial / "checkpoints").glob("checkpoint-*"))
    unfinished = list((partial / "checkpoints").glob(".unfinished/checkpoint-*"))
    left = [*names, *(f"half of {path.name}" for path in unfinished)]
    return ", ".join(left) or ("no checkpoint" if partial.exists() else "nothing")


def _broken(console: Console, ended: Attempt) -> int:
    console.print(f"the command failed with status {ended.status}:\n{ended.said}", markup=False)
    return 1


if __name__ == "__main__":
    sys.exit(main())
