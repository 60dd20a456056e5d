"""Processes that are forked from one that has imported everything, alone or as a launcher starts its ranks."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: How a process ended: its exit status (-9: killed), and what it said.
Ended = tuple[int, str]


def fork(call: Callable[[], int], log: Path) -> int:
    """The number of a new process, which exits with what ``call`` returns; its output goes to ``log``."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = call()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait_for(pids: Sequence[int]) -> list[int]:
    """The exit statuses of processes, when all have ended."""
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def start_ranks(
    count: int, call: Callable[[], int], logs: Path, environment: Mapping[str, str] | None = None
) -> list[int]:
    """Starts ``call`` in as many processes with the environment that ``torchrun`` would give them.

    Args:
        logs: the beginning of the names of their logs, ``LOGS-RANK.log``.
        environment: more of it.

    Returns:
        Their numbers, by rank.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def rank_of(rank: int) -> int:
        number, all_of_them = str(rank), str(count)
        os.environ.update(RANK=number, LOCAL_RANK=number, WORLD_SIZE=all_of_them, LOCAL_WORLD_SIZE=all_of_them)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), **(environment or {}))
        return call()

    return [fork(lambda rank=rank: rank_of(rank), Path(f"{logs}-{rank}.log")) for rank in range(count)]


def fork_ranks(
    count: int, call: Callable[[], int], logs: Path, environment: Mapping[str, str] | None = None
) -> list[Ended]:
    """Runs ``call`` in processes as :func:`start_ranks` starts them, and waits for them."""
    statuses = wait_for(start_ranks(count, call, logs, environment))
    return [(status, Path(f"{logs}-{rank}.log").read_text()) for rank, status in enumerate(statuses)]
