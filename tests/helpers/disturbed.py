"""Runs of ``layerselect`` that are disturbed: killed, interrupted, out of room, or met by a second run on their folder;
at a moment, or right before one of their changes of files.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.distributed.forked import fork, start_ranks

ROOT = Path(__file__).resolve().parents[2]
#: The ways to disturb a run.
#: ``kill``: SIGKILL. ``interrupt``: SIGINT, as Ctrl-C sends it. ``full``: from then on no file can be opened for
#: writing and no folder made. ``limit``: from then on no file can grow beyond a size. ``second``: the run is stopped,
#: the same command is run to its end, and the first one goes on. ``read-only``: from then on nothing can be changed.
WAYS = ("kill", "interrupt", "full", "limit", "second", "read-only")
#: Those that come from another process, so that a run in an interpreter of its own can be met by them.
FROM_OUTSIDE = ("kill", "interrupt", "second")
_SIGNALS = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "second": signal.SIGSTOP}
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
_NEEDS_ROOM = ("open", "os.mkdir")
#: Seconds after the first of several processes has ended badly until the others are asked to end, as torchrun does.
_GRACE = 5.0
#: Seconds after which they are killed, as torchrun does too: where no launcher keeps a store in which they wait for
#: each other, one that is being connected hears nothing else.
_LAST_GRACE = 30.0
#: Seconds after which a run is taken to hang.
_PATIENCE = 300.0


@dataclass(frozen=True)
class Disturbance:
    """What happens to a run, to which of its processes, and when: after some seconds or before a change of a file."""

    way: str
    process: int = 0
    seconds: float | None = None
    change: int | None = None
    size: int = 0  #: of ``limit``, in bytes

    def __str__(self) -> str:
        when = f"after {self.seconds:.2f} s" if self.change is None else f"before change {self.change}"
        what = f"limit of {self.size} bytes" if self.way == "limit" else self.way
        return f"{what}, process {self.process}, {when}"


@dataclass(frozen=True)
class Attempt:
    """How the processes of a run ended.

    Attributes:
        statuses: exit statuses; -9: killed.
        seconds: how long it took.
        said: what each wrote.
        changes: how many changes of files each made, where they were counted.
        second: the run that came to the same folder meanwhile.
    """

    statuses: tuple[int, ...]
    seconds: float
    said: tuple[str, ...]
    changes: tuple[int, ...] = ()
    second: Attempt | None = None

    @property
    def finished(self) -> bool:
        return not any(self.statuses)

    def fault(self, way: str | None) -> str | None:
        """What is wrong with how it ended; ``None``: it ended as a run may that was disturbed in this way."""
        alone = len(self.statuses) == 1
        # -2: all was done, and the interpreter was ending.
        allowed = {0, *{None: (), "kill": (-9,), "interrupt": (130, -2), "second": ()}.get(way, (2,))}
        if not alone and way not in (None, "second"):
            allowed |= {2, 143, -15, -9}  # what is left when another process has gone
        for status, text in zip(self.statuses, self.said, strict=True):
            lines = [line for line in text.splitlines() if line.startswith("layerselect: ")]
            if "Traceback" in text or status not in allowed:
                return f"status {status}: {text[-3000:]}"
            if len(lines) != (status in (2, 130, 143)):
                return f"status {status} and {len(lines)} lines to say why: {text[-3000:]}"
        if self.second is None or self.second.finished:
            return None
        # The first of several processes keeps what they tell each other, and may have gone before all have heard it.
        refused = any("another run is writing" in text for text in self.second.said)
        fault = self.second.fault("full")  # each says why it ended, in one line
        return fault and f"the second run: {fault}" if refused else f"the second run: {self.second.said}"


def spawn(arguments: Sequence[str], disturbance: Disturbance | None, logs: Path) -> Attempt:
    """The command in an interpreter of its own, disturbed from outside."""

    def begin(name: str) -> list[int]:
        with Path(f"{logs}{name}-0.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "layerselect", *arguments],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in the background of a shell
            )
        process.returncode = 0  # it is waited for here
        return [process.pid]

    return _follow(begin, disturbance, logs)


def fork_command(arguments: Sequence[str], disturbance: Disturbance | None, logs: Path, processes: int = 1) -> Attempt:
    """The command in copies of this process, which has imported everything. Their changes of files are counted."""
    import layerselect.tasks.intent  # noqa: F401  (imported once, for all of them)
    from layerselect.cli import main

    def begin(name: str) -> list[int]:
        met = disturbance if not name else None

        def run() -> int:
            # Its own, where those of this process are caught (as pytest does).
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            number = int(os.environ.get("RANK", "0"))
            watch = _Watch(met if met and met.process == number else None, str(Path(arguments[-1]).parent))
            sys.addaudithook(watch)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
            status = main(list(arguments))
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            Path(f"{logs}{name}-{number}.changes").write_text(str(watch.number))
            return status

        if processes == 1:
            return [fork(run, Path(f"{logs}{name}-0.log"))]
        return start_ranks(processes, run, Path(f"{logs}{name}"), {"GLOO_SOCKET_IFNAME": "lo"})

    return _follow(begin, disturbance, logs)


class _Watch:
    """An audit hook: counts the changes of files below a folder that Python makes, and lets the disturbance come."""

    def __init__(self, disturbance: Disturbance | None, place: str) -> None:
        self.number, self._place, self._coming = 0, place, disturbance
        self._refused: dict[str, int] = {}  # numbers of errors by event
        self._begin = time.monotonic()

    def __call__(self, event: str, values: tuple) -> None:
        if not self._is_change(event, values):
            return
        self.number += 1
        if self._coming is not None and self._is_time(self._coming):
            self._come(self._coming)
        if (number := self._refused.get(event)) is not None:
            raise OSError(number, os.strerror(number), str(values[0]))

    def _is_change(self, event: str, values: tuple) -> bool:
        if event == "open":
            writes = isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            writes = event in _CHANGES
        return bool(writes) and self._place in str(values[0])

    def _is_time(self, disturbance: Disturbance) -> bool:
        if disturbance.change is not None:
            return self.number == disturbance.change
        passed = disturbance.seconds is not None and time.monotonic() - self._begin >= disturbance.seconds
        return passed and disturbance.way not in FROM_OUTSIDE

    def _come(self, disturbance: Disturbance) -> None:
        self._coming = None
        if disturbance.way == "full":
            self._refused = dict.fromkeys(_NEEDS_ROOM, errno.ENOSPC)
        elif disturbance.way == "read-only":
            self._refused = dict.fromkeys(("open", *_CHANGES), errno.EROFS)
        elif disturbance.way == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (disturbance.size, resource.RLIM_INFINITY))
        else:
            os.kill(os.getpid(), _SIGNALS[disturbance.way])


def _follow(begin: Callable[[str], list[int]], disturbance: Disturbance | None, logs: Path) -> Attempt:
    """Begins a run, disturbs it from outside where that is asked for, and waits for its end."""
    start = time.monotonic()
    pids = begin("")
    statuses: dict[int, int] = {}
    second, sent, asked, ended_them = None, False, False, False
    first_bad: float | None = None
    while len(statuses) < len(pids):
        for pid in pids:
            if pid in statuses:
                continue
            ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if ended and os.WIFSTOPPED(status):
                second = _follow(lambda _: begin("-second"), None, Path(f"{logs}-second"))
                os.kill(pid, signal.SIGCONT)
            elif ended:
                statuses[pid] = os.waitstatus_to_exitcode(status)
        now = time.monotonic()
        if any(statuses.values()) and first_bad is None:
            first_bad = now
        left = [pid for pid in pids if pid not in statuses]
        if first_bad is not None and now - first_bad > _GRACE and not asked:
            asked = True
            _send(left, signal.SIGTERM)
        if first_bad is not None and now - first_bad > _LAST_GRACE and not ended_them:
            ended_them = True
            _send(left, signal.SIGKILL)
        if now - start > _PATIENCE:
            _send(left, signal.SIGKILL)
            for pid in left:
                os.waitpid(pid, 0)
            raise TimeoutError(f"a run does not end within {_PATIENCE:.0f} s, disturbed by {disturbance}")
        due = disturbance is not None and disturbance.seconds is not None and now - start >= disturbance.seconds
        if due and not sent and disturbance.way in FROM_OUTSIDE:
            sent = True
            met = pids if disturbance.way == "interrupt" else [pids[disturbance.process]]  # a terminal tells all
            _send([pid for pid in met if pid in left], _SIGNALS[disturbance.way])
        time.sleep(0.002)
    names = [f"{logs}-{number}" for number in range(len(pids))]
    counted = [Path(f"{name}.changes") for name in names]
    return Attempt(
        tuple(statuses[pid] for pid in pids),
        time.monotonic() - start,
        tuple(Path(f"{name}.log").read_text(errors="replace") for name in names),
        tuple(int(path.read_text()) if path.exists() else 0 for path in counted),
        second,
    )


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    """Sends a signal to processes of ours that have not been waited for, so that no other can have their numbers."""
    for pid in pids:
        os.kill(pid, number)
