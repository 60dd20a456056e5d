"""Runs cases, each in processes of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock
from typing import Any

import psutil

from .case import Case
from .environments import FOLDER, ROOT, VARIABLES, CannotInstall, python
from .kept import is_right, keep
from .watched import RESULTS

logger = logging.getLogger(__name__)


class Runner:
    """Runs cases, some at a time. Whoever interrupts it ends those that run; what is finished is kept.

    Args:
        jobs: how many at a time.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._making = Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = Event()

    def run_all(self, cases: Iterable[Case]) -> None:
        pool = ThreadPoolExecutor(self._jobs)
        try:
            for future in [pool.submit(self.run, case) for case in cases]:
                future.result()
        except BaseException:
            self._stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(self._running):
                _end(process)
            raise
        pool.shutdown()

    def run(self, case: Case) -> None:
        """Runs one case and keeps its result."""
        started = time.monotonic()
        outcome = self._outcome(case)
        if self._stopped.is_set():  # it was ended, which says nothing about it
            return
        kept = keep(case, outcome, started)
        mark = "" if is_right(case, kept) else "   <- not what is right"
        sentence = kept["sentence"][:160]
        logger.info("%-46s %-8s %5.1f s  %s%s", case.name, kept["result"], kept["seconds"], sentence, mark)

    def _outcome(self, case: Case) -> dict[str, Any]:
        if case.untried:
            return _one("untried", case.untried)
        try:
            with self._making:
                interpreter = python(case.environment)
        except CannotInstall as error:
            return _one("untried", f"cannot be installed here: {error}")
        outcome = self._launch(case, interpreter)
        if any(run.get("raised") for run in outcome["runs"]):
            control = self._launch(case, interpreter, FRAMEWORKS_CONTROL="1")
            if control["result"] == "untried":
                return control
        return outcome

    def _launch(self, case: Case, interpreter: str, **variables: str) -> dict[str, Any]:
        """Runs the case's program once."""
        name = case.name + ("-control" if variables else "")
        scratch = FOLDER / "runs" / name
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "work").mkdir(parents=True)
        log = FOLDER / "logs" / f"{name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        ended = self._execute(command(case, interpreter, scratch / "ranks"), scratch / "work", log, case, variables)
        reports = [json.loads(path.read_text()) for path in sorted((scratch / "ranks").glob("*.json"))]
        shutil.rmtree(scratch / "work", ignore_errors=True)
        if not ended:
            return _one("failed", f"did not end within {case.timeout} s ({_last_error(log)})")
        if len(reports) < case.processes:
            return _one("failed", _last_error(log))
        return _joined(reports, case.alike)

    def _execute(self, command: list[str], work: Path, log: Path, case: Case, variables: dict[str, str]) -> bool:
        """Runs a command in a process group of its own; whether it ended by itself."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",  # a program that asks for a model or a data set by name is wrong
            "HF_DATASETS_OFFLINE": "1",
            "HF_HOME": str(FOLDER / "hub"),
            "WANDB_DISABLED": "true",
            "ACCELERATE_USE_CPU": "true",
            "TMPDIR": str(work),
            **VARIABLES,
            "FRAMEWORKS_TIMEOUT": str(case.timeout),
            **dict(case.variables),
            **variables,
            "PYTHONWARNINGS": "ignore",
        }
        with log.open("w") as out:
            out.write(shlex.join(command) + "\n")
            out.flush()
            process = subprocess.Popen(
                command,
                cwd=work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process)
            try:
                process.wait(case.timeout)
                return True
            except subprocess.TimeoutExpired:
                return False
            finally:
                self._running.discard(process)
                if process.returncode is None:
                    _end(process)


def command(case: Case, interpreter: str, folder: Path) -> list[str]:
    """What starts the case."""
    program = ["-m", "frameworks.watched", str(folder), case.program, ",".join(case.modes), *case.arguments]
    if case.launcher == "torchrun":
        launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(case.processes)]
    elif case.launcher:
        launch = ["accelerate.commands.launch", *shlex.split(case.launcher), "--num_processes", str(case.processes)]
    else:
        return [interpreter, *program]
    return [interpreter, "-m", *launch, *program]


def _one(result: str, sentence: str) -> dict[str, Any]:
    return {"result": result, "sentence": sentence, "modes": [], "versions": {}, "runs": []}


def _joined(reports: list[dict[str, Any]], alike: bool) -> dict[str, Any]:
    """What several processes say, as one: the worst of them, and whether they chose the same layers."""
    worst = max(reports, key=lambda report: RESULTS.index(report["result"]))
    masks = [[one["masks"] for run in report["runs"] for one in run["selectors"]] for report in reports]
    if alike and worst["result"] == "works" and any(other != masks[0] for other in masks):
        worst = {**worst, "result": "failed", "sentence": "the processes chose different layers", "runs": []}
    return worst


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started: launchers give each of their workers a group of its own."""
    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    process.kill()
    process.wait()
    for one in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def _last_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(\[rank\d\]: )?[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or ["no output"])[-1][:300]
