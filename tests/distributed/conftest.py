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

from tests.distributed.worker import STARTER, name_of

ROOT = Path(__file__).parents[2]
#: Seconds for all checks of as many processes; the machine may be busy.
PATIENCE = 600

if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
    collect_ignore_glob = ["test_*.py"]


@dataclass(frozen=True)
class Started:
    """What processes have left behind."""

    folder: Path
    count: int
    log: Path  #: of the process that started them

    def look(self, check: Callable) -> list[Any]:
        """What ``check`` returned in each process."""
        name, places = name_of(check), [self.folder / str(rank) for rank in range(self.count)]
        for rank, place in enumerate(places):
            for failed in place.glob("*.failed"):
                if failed.stem == name or not (place / f"{name}.pt").exists():
                    pytest.fail(f"process {rank} was stopped by {failed.stem}: {failed.read_text()}")
        for rank, place in enumerate(places):
            if not (place / f"{name}.pt").exists():
                pytest.fail(f"process {rank} did not get there: " + self._said(self.folder / f"{rank}.log"))
        return [torch.load(place / f"{name}.pt") for place in places]

    def look_at_launch(self, launch: Callable) -> Any:
        """What ``launch`` returned."""
        file = self.folder / STARTER / name_of(launch)
        if not Path(f"{file}.pt").exists():
            failed = Path(f"{file}.failed")
            pytest.fail(failed.read_text() if failed.exists() else "it was not reached: " + self._said(self.log))
        return torch.load(f"{file}.pt")

    def _said(self, log: Path) -> str:
        return (log if log.exists() else self.log).read_text()[-2000:]


@pytest.fixture(scope="session")
def process_environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(scope="session")
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, process_environment: dict[str, str]
) -> Callable[[int], Started]:
    @functools.cache
    def folder() -> Path:
        # The processes of xdist share what the first of them has started.
        base = tmp_path_factory.getbasetemp()
        shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
        place, ended = shared / "processes", shared / "processes.ended"
        try:
            place.mkdir()
        except FileExistsError:
            until = time.monotonic() + PATIENCE + 60
            while not ended.exists() and time.monotonic() < until:
                time.sleep(0.1)
        else:
            try:
                run_checks(place)
            finally:
                ended.touch()
        return place

    def run_checks(place: Path) -> None:
        items = [item for item in request.session.items if isinstance(item, pytest.Function)]
        modules = sorted({i.module.__name__ for i in items if getattr(i.module, "PROCESSES", 0)})
        command = [sys.executable, "-m", "tests.distributed.worker", str(place), *modules]
        with (place / "starter.log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=process_environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            process.wait(PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    return lambda count: Started(folder() / str(count), count, folder() / "starter.log")


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
