"""Starts the processes once for all modules that want as many, and hands each test what its check returned in each."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.worker import name_of

ROOT = Path(__file__).parents[2]
#: Seconds for all checks of as many processes; the machine may be busy.
PATIENCE = 600

if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
    collect_ignore_glob = ["test_*.py"]


@dataclass(frozen=True)
class Started:
    """What processes have left behind."""

    folder: Path
    outcomes: list[dict[str, dict[str, Any]]]  #: for each process, by check
    launched: dict[str, dict[str, Any]]  #: of the one that started them, by launch

    def look(self, check: Callable) -> list[Any]:
        """What ``check`` returned in each process."""
        name = name_of(check)
        for rank, outcome in enumerate(self.outcomes):
            for done, result in outcome.items():
                if "error" in result and (done == name or name not in outcome):
                    pytest.fail(f"process {rank} was stopped by {done}: {result['error']}")
        for rank, outcome in enumerate(self.outcomes):
            if name not in outcome:
                pytest.fail(f"process {rank} did not get there: " + (self.folder / f"{rank}.log").read_text()[-2000:])
        return [outcome[name]["value"] for outcome in self.outcomes]

    def look_at_launch(self, launch: Callable) -> Any:
        """What ``launch`` returned."""
        found = self.launched.get(name_of(launch), {})
        if "value" not in found:
            log = self.folder / f"{len(self.outcomes)}.log"
            pytest.fail(found.get("error") or "it was not reached: " + log.read_text()[-2000:])
        return found["value"]


@pytest.fixture(scope="session")
def process_environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(scope="session")
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, process_environment: dict[str, str]
) -> Callable[[int], Started]:
    @functools.cache
    def start(count: int) -> Started:
        # The processes of xdist share what the first of them has started.
        base = tmp_path_factory.getbasetemp()
        shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
        folder, ended = shared / f"processes-{count}", shared / f"processes-{count}.ended"
        try:
            folder.mkdir()
        except FileExistsError:
            until = time.monotonic() + PATIENCE + 60
            while not ended.exists() and time.monotonic() < until:
                time.sleep(0.1)
        else:
            try:
                run_checks(count, folder)
            finally:
                ended.touch()
        files = [folder / f"{rank}.pt" for rank in range(count + 1)]
        *outcomes, launched = [torch.load(file) if file.exists() else {} for file in files]
        return Started(folder, outcomes, launched)

    def run_checks(count: int, folder: Path) -> None:
        items = [item for item in request.session.items if isinstance(item, pytest.Function)]
        modules = sorted({i.module.__name__ for i in items if getattr(i.module, "PROCESSES", 0) == count})
        command = [sys.executable, "-m", "tests.distributed.worker", str(count), str(folder), *modules]
        with (folder / f"{count}.log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=process_environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            process.wait(PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    return start


@pytest.fixture
def returned(request: pytest.FixtureRequest, started: Callable[[int], Started]) -> Callable[[Callable], list[Any]]:
    """``returned(check)``: what ``check`` returned in each of the module's ``PROCESSES``."""
    return started(request.module.PROCESSES).look


@pytest.fixture
def launched(request: pytest.FixtureRequest, started: Callable[[int], Started]) -> Callable[[Callable], Any]:
    """``launched(launch)``: what one of the module's ``LAUNCHES`` returned."""
    return started(request.module.PROCESSES).look_at_launch


@pytest.fixture
def shared_folder(request: pytest.FixtureRequest, started: Callable[[int], Started]) -> Path:
    """The folder that the checks of the module were given."""
    return started(request.module.PROCESSES).folder
