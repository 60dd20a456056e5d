"""Runs a part in processes of its own, and notices what a process cannot say of itself: that it died or hangs."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
HANG = 60.0
"""Seconds of the clock after which a case is given up; the limit of 5 is one of the processor's seconds."""


@dataclass
class Tally:
    """What came of a part: counts, and each kind of failure with its first case."""

    part: str
    cases: int = 0
    results: int = 0
    refusals: int = 0
    longest: float = 0.0
    most_memory: int = 0
    failures: dict[str, tuple[str, int]] = field(default_factory=dict)

    def fail(self, kind: str, seed: str, case: int) -> None:
        first, count = self.failures.get(kind, (f"--seed {seed} --case {case}", 0))
        self.failures[kind] = first, count + 1


def run_part(part: str, seed: str, seconds: float) -> Tally:
    """Run a part for so many seconds; round after round, each with a process, a folder and a seed of its own."""
    tally, end, number = Tally(part), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        number += 1
        with tempfile.TemporaryDirectory(prefix=f"fuzz-{part}-") as folder:
            if not _round(tally, f"{seed}.{number}", end, folder):
                break
    return tally


def _round(tally: Tally, seed: str, end: float, folder: str) -> bool:
    """One process; False if it could not begin."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "TMPDIR": folder,
        "HOME": folder,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    log = Path(folder, "stderr.of.the.process")
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.fuzz.worker", tally.part, seed, str(end - time.monotonic())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env=environment,
        )
        assert process.stdout is not None  # a pipe was asked for
        running, case, began = "", -1, time.monotonic()
        pending = b""
        try:
            while True:
                ready, _, _ = select.select([process.stdout], [], [], 1.0)
                if ready:
                    # Bytes, not lines: a line buffer would hide from select what was read ahead.
                    if not (data := os.read(process.stdout.fileno(), 1 << 16)):
                        break
                    *lines, pending = (pending + data).split(b"\n")
                    for line in lines:
                        report = json.loads(line)
                        case, running = report["case"], report["begins"]
                        count(tally, seed, report)
                    began = time.monotonic()
                elif case >= 0 and time.monotonic() - began > HANG:
                    process.kill()
                    tally.fail(f"hangs ({running})", seed, case)
                    break
        finally:
            if process.poll() is None and process.stdout.closed:
                process.kill()
            process.stdout.close()
            status = process.wait()
    if case < 0:
        tally.fail(f"the part does not begin: {_last_line(log)}", seed, 0)
        return False
    if status != 0 and running:
        tally.cases += 1
        tally.fail(f"the process died with status {status} in {running}: {_last_line(log)}", seed, case)
    return True


def count(tally: Tally, seed: str, report: dict) -> None:
    """A report names the case that begins now, and says how the one before it ended."""
    if "ended" not in report:
        return
    tally.cases += 1
    tally.results += report["ended"] == "result"
    tally.refusals += report["ended"] == "refusal"
    tally.longest = max(tally.longest, report["seconds"])
    tally.most_memory = max(tally.most_memory, report["memory"])
    for kind in report["failures"]:
        tally.fail(kind, seed, report["case"] - 1)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().split("\n")
    return lines[-1][:200]
