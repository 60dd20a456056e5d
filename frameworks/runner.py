"""Runs cases, each in processes of its own, and keeps what came of them: a run that was interrupted goes on where it was."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import psutil

from .cases import SAID, Case
from .environments import FOLDER, ROOT, VARIABLES, CannotInstall, python
from .watched import RESULTS

logger = logging.getLogger(__name__)

RESULTS_FOLDER = FOLDER / "results"
PROGRAMS = ROOT / "frameworks" / "programs"
_making = Lock()


def fingerprint(case: Case) -> str:
    """Changes where the case or its program does, so that it is run anew; comments and layout do not count."""
    program = ast.dump(ast.parse(PROGRAMS.joinpath(f"{case.program}.py").read_text()))
    return _digest(json.dumps(asdict(case), sort_keys=True), program)


@cache
def package() -> str:
    """Changes with the code of the package itself."""
    files = [path for folder in ("layerselect", "csrc") for path in ROOT.joinpath(folder).rglob("*")]
    kinds = (".py", ".cpp", ".h", ".cu", ".cuh")
    return _digest(*(path.read_text() for path in sorted(files) if path.suffix in kinds))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def result_of(case: Case) -> dict[str, Any] | None:
    """What is kept of a case; ``None`` where it was not run, or differs by now."""
    path = RESULTS_FOLDER / f"{case.name}.json"
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    return kept if kept["fingerprint"] == fingerprint(case) else None


def is_right(case: Case, kept: Mapping[str, Any]) -> bool:
    """Whether a case came out as it should."""
    if kept["result"] not in (*case.right, "untried"):
        return False
    return kept["result"] not in SAID or re.search(case.says, kept["sentence"]) is not None


def run_all(cases: Iterable[Case], jobs: int) -> None:
    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(run, case) for case in cases]:
            future.result()


def run(case: Case) -> dict[str, Any]:
    """Runs one case and keeps its result."""
    started = time.monotonic()
    outcome = _outcome(case)
    kept = {
        **outcome,
        "package": package(),
        "case": case.name,
        "fingerprint": fingerprint(case),
        "seconds": round(time.monotonic() - started, 1),
    }
    RESULTS_FOLDER.mkdir(parents=True, exist_ok=True)
    target = RESULTS_FOLDER / f"{case.name}.json"
    target.with_suffix(".part").write_text(json.dumps(kept, indent=1))
    target.with_suffix(".part").replace(target)
    mark = "" if is_right(case, kept) else "   <- not what is right"
    logger.info("%-46s %-8s %5.1f s  %s%s", case.name, kept["result"], kept["seconds"], kept["sentence"][:160], mark)
    return kept


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


def _outcome(case: Case) -> dict[str, Any]:
    if case.untried:
        return _one("untried", case.untried)
    try:
        with _making:
            interpreter = python(case.environment)
    except CannotInstall as error:
        return _one("untried", f"cannot be installed here: {error}")
    scratch = FOLDER / "runs" / case.name
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "work").mkdir(parents=True)
    log = FOLDER / "logs" / f"{case.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    ended = _execute(command(case, interpreter, scratch / "ranks"), scratch / "work", log, case)
    reports = [json.loads(path.read_text()) for path in sorted((scratch / "ranks").glob("*.json"))]
    shutil.rmtree(scratch / "work", ignore_errors=True)
    if not ended:
        return _one("failed", f"did not end within {case.timeout} s ({_last_error(log)})")
    if len(reports) < case.processes:
        return _one("failed", _last_error(log))
    return _joined(reports, case.alike)


def _one(result: str, sentence: str) -> dict[str, Any]:
    return {"result": result, "sentence": sentence, "modes": [], "versions": {}, "runs": []}


def _joined(reports: list[dict[str, Any]], alike: bool) -> dict[str, Any]:
    """What several processes say, as one: the worst of them, and whether they chose the same layers."""
    worst = max(reports, key=lambda report: RESULTS.index(report["result"]))
    masks = [[one["masks"] for run in report["runs"] for one in run["selectors"]] for report in reports]
    if alike and worst["result"] == "works" and any(other != masks[0] for other in masks):
        worst = {**worst, "result": "failed", "sentence": "the processes chose different layers"}
    return worst


def _execute(command: list[str], work: Path, log: Path, case: Case) -> bool:
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
        "PYTHONWARNINGS": "ignore",
    }
    with log.open("w") as out:
        out.write(shlex.join(command) + "\n")
        out.flush()
        process = subprocess.Popen(
            command, cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(case.timeout)
            return True
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.returncode is None:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started: launchers give each of their workers a group of its own."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for one in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def _last_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(\[rank\d\]: )?[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or ["no output"])[-1][:300]
