"""The processes of the distributed tests: ``python -m tests.distributed.worker PROCESSES FOLDER MODULE...``.

This process imports the modules, once, and forks the others. They run the functions that the modules list in
``CHECKS``, in order, and leave what they return in ``FOLDER/RANK.pt``. All stop at the first function that raises in
one of them, since from there on they would wait for each other. Then this process, which is in no group, runs the
functions in ``LAUNCHES``, which may fork processes of their own (:func:`tests.distributed.forked.fork_ranks`).
"""

from __future__ import annotations

import gc
import importlib
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.distributed.forked import fork, wait_for

#: How long a process waits for the others.
PATIENCE = timedelta(seconds=60)


def name_of(check: Callable) -> str:
    return f"{check.__module__}.{check.__name__}"


def main(processes: int, folder: Path, modules: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    found = [importlib.import_module(name) for name in modules]
    checks = [check for module in found for check in getattr(module, "CHECKS", [])]
    ranks = range(processes)
    gc.collect()
    gc.freeze()  # what was imported need not be looked through again in every process
    wait_for([fork(lambda rank=rank: work(rank, processes, folder, checks), folder / f"{rank}.log") for rank in ranks])
    outcomes: dict[str, dict[str, object]] = {}
    for launch in (launch for module in found for launch in getattr(module, "LAUNCHES", [])):
        outcomes[name_of(launch)] = outcome(launch, folder)
        torch.save(outcomes, folder / f"{processes}.pt")


def work(rank: int, processes: int, folder: Path, checks: list[Callable]) -> int:
    """What one of the forked processes does."""
    store = dist.FileStore(str(folder / "store"), processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes, timeout=PATIENCE)
    outcomes: dict[str, dict[str, object]] = {}
    for check in checks:
        name = name_of(check)
        outcomes[name] = outcome(check, folder)
        torch.save(outcomes, folder / f"{rank}.pt")
        store.set(f"{name}/{rank}", "failed" if "error" in outcomes[name] else "done")
        if any(store.get(f"{name}/{other}") == b"failed" for other in range(processes)):
            return 1
    dist.destroy_process_group()
    return 0


def outcome(check: Callable, folder: Path) -> dict[str, object]:
    try:
        return {"value": check(folder)}
    except (Exception, pytest.fail.Exception):
        return {"error": traceback.format_exc()}


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
