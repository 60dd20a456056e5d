"""The processes of the distributed tests: ``python -m tests.distributed.worker FOLDER MODULE...``.

This process imports the modules, once, and forks as many others as the modules want (``PROCESSES``), one number after
the other. They run the functions that the modules list in ``CHECKS``, in order, and leave what each returns in
``FOLDER/PROCESSES/RANK``, in a file of its own. All stop at the first function that raises in one of them, since from
there on they would wait for each other. Then this process, which is in no group, runs the functions in ``LAUNCHES``,
which may fork processes of their own (:func:`tests.distributed.forked.fork_ranks`).
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.distributed as dist

from tests.distributed.forked import fork, wait_for

#: How long a process waits for the others.
PATIENCE = timedelta(seconds=60)


#: Where the process that starts the others leaves what the launches return, beside the folders of the ranks.
STARTER = "starter"


def name_of(check: Callable) -> str:
    return f"{check.__module__}.{check.__name__}"


def main(folder: Path, modules: list[str]) -> None:
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # as in all tests (tests/conftest.py)
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    found = [importlib.import_module(name) for name in modules]
    gc.collect()
    gc.freeze()  # what was imported need not be looked through again in every process
    for count in sorted({module.PROCESSES for module in found}):
        start(count, folder / str(count), [module for module in found if count == module.PROCESSES])


def start(processes: int, folder: Path, modules: list[ModuleType]) -> None:
    """Forks as many processes for the checks of the modules, then runs their launches."""
    for name in (*range(processes), STARTER):
        (folder / str(name)).mkdir(parents=True)
    checks = [check for module in modules for check in getattr(module, "CHECKS", [])]
    ranks = range(processes)
    wait_for([fork(lambda rank=rank: work(rank, processes, folder, checks), folder / f"{rank}.log") for rank in ranks])
    for launch in (launch for module in modules for launch in getattr(module, "LAUNCHES", [])):
        keep_outcome(launch, folder, STARTER)


def work(rank: int, processes: int, folder: Path, checks: list[Callable]) -> int:
    """What one of the forked processes does."""
    store = dist.FileStore(str(folder / "store"), processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes, timeout=PATIENCE)
    for check in checks:
        name = name_of(check)
        store.set(f"{name}/{rank}", "done" if keep_outcome(check, folder, str(rank)) else "failed")
        if any(store.get(f"{name}/{other}") == b"failed" for other in range(processes)):
            return 1
    dist.destroy_process_group()
    return 0


def keep_outcome(check: Callable, folder: Path, place: str) -> bool:
    """Runs a check and leaves what it returned, or how it failed, in ``FOLDER/PLACE``; whether it returned."""
    file = folder / place / name_of(check)
    try:
        torch.save(check(folder), f"{file}.pt")
    except (Exception, pytest.fail.Exception):
        Path(f"{file}.failed").write_text(traceback.format_exc())
        return False
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
