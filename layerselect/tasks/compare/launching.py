"""How the processes of one run of a comparison are started and stopped: one by itself, or several by a launcher."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import LayerSelectError

_WORKER = "layerselect.tasks.compare.worker"


@dataclass(frozen=True)
class Means:
    """With what runs are started.

    Attributes:
        threads: CPU threads of each process; ``None``: as many as the launcher says.
        launcher: the words of the program that starts the processes of a run; none: a run is one process.
    """

    threads: int | None
    launcher: tuple[str, ...] = ()


def launcher_words(text: str | None) -> tuple[str, ...]:
    """The words of ``--launcher``, as a shell would see them; none where there is no launcher.

    Raises:
        LayerSelectError: there are none in it, or a quotation mark has no partner.
    """
    if text is None:
        return ()
    try:
        words = tuple(shlex.split(text))
    except ValueError:
        words = ()
    if not words:
        raise LayerSelectError(
            f"--launcher {text!r} is no command: write one such as 'torchrun --standalone --nproc-per-node 2'"
        )
    return words


def find_launcher(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words with the whole path of the program, which may stand beside this Python.

    Raises:
        LayerSelectError: there is no such program.
    """
    if not words:
        return ()
    found = shutil.which(words[0]) or shutil.which(words[0], path=str(Path(sys.executable).parent))
    if found is None:
        raise LayerSelectError(
            f"--launcher {shlex.join(words)!r}: there is no program {words[0]!r} here: install it, or give its path"
        )
    return (found, *words[1:])


@contextmanager
def started(job: Mapping[str, Any], log: Path, means: Means) -> Iterator[subprocess.Popen[str]]:
    """The process that runs a job, with its output to be read; what a launcher has started is a group of its own, and
    none of it outlives the launcher.

    Args:
        job: what the worker is told.
        log: of the run; a launcher's processes find the job beside it.

    Raises:
        OSError: it cannot be started.
    """
    options: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "env": {**os.environ, **({} if means.threads is None else {"OMP_NUM_THREADS": str(means.threads)})},
        "encoding": "utf-8",
        "errors": "replace",
    }
    if not means.launcher:
        process = subprocess.Popen([sys.executable, "-m", _WORKER], stdin=subprocess.PIPE, **options)
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:  # it may have died before it read them
            process.stdin.write(json.dumps(job))
        yield process
        return
    place = log.with_suffix(".job.json")
    place.write_text(json.dumps(job), encoding="utf-8")
    try:
        command = [*means.launcher, "-m", _WORKER, str(place)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
        threading.Thread(target=_end_together, args=(process,), daemon=True).start()
        yield process
    finally:
        place.unlink(missing_ok=True)


def stop(process: subprocess.Popen[str]) -> None:
    """Asks a process to end, and the group that it leads."""
    with suppress(ProcessLookupError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGTERM)
        else:
            process.terminate()


def _end_together(process: subprocess.Popen[str]) -> None:
    """Ends what a launcher leaves behind: it would write on, and hold its output open."""
    process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
