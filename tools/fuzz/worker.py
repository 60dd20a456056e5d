"""The process that runs the cases of one part, one after the other, and reports each on its standard output."""

from __future__ import annotations

import importlib
import itertools
import json
import logging
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from layerselect.errors import LayerSelectError

SECONDS, MEMORY = 5.0, 1 << 30
"""What a case may take of the processor, and of memory beyond what the process had."""

Case = tuple[str, Callable[[], Any]]


def cases_of(part: str, seed: str) -> Iterator[Case]:
    """The cases of a part; without end if the part has none."""
    return importlib.import_module(f"tools.fuzz.part_{part}").cases(random.Random(f"{part} {seed}"))


def repeat(part: str, seed: str, number: int) -> None:
    """Run one case in this process, and let its exception through. What it writes stays, in a folder of its own."""
    os.chdir(tempfile.mkdtemp(prefix=f"fuzz-{part}-"))
    print(f"in {os.getcwd()}")  # noqa: T201
    name, run = next(itertools.islice(cases_of(part, seed), number, None))
    print(f"case {number}: {name}")  # noqa: T201
    print(f"returned {str(run())[:300]}")  # noqa: T201


def work(part: str, seed: str, seconds: float) -> None:
    """Run cases until the time is over, and report them."""
    # What a case prints must not be taken for a report.
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.getLogger().addHandler(logging.NullHandler())
    end = time.monotonic() + seconds
    before: dict[str, Any] = {}
    number = 0
    for number, (name, run) in enumerate(cases_of(part, seed)):
        # The report is out before the case begins: whatever ends the process, its case is known.
        print(json.dumps({"case": number, "begins": name, **before}), file=reports, flush=True)
        before = run_case(run)
        if time.monotonic() > end:
            break
    print(json.dumps({"case": number + 1, "begins": "", **before}), file=reports, flush=True)


def run_case(run: Callable[[], Any], *, limit: bool = True) -> dict[str, Any]:
    """Run a case and say how it ended, what it took, and what was wrong with that."""
    base, start = _fresh_peak(), time.process_time()
    if limit:
        _limit(base + 4 * MEMORY)  # a backstop for the machine: the case fails at MEMORY already
    failures: list[str] = []
    ended = "failure"
    try:
        run()
        ended = "result"
    except LayerSelectError as error:
        ended = "refusal"
        if "\n" in str(error) or not str(error).strip() or len(str(error)) > 2000:
            failures.append(f"a refusal that is no line: {str(error)[:80]!r}")
        elif not _can_be_written(str(error)):
            failures.append(f"a refusal that cannot be written: {str(error)[:80]!a}")
    except Exception as error:
        failures.append(_kind(error))
    seconds, memory = time.process_time() - start, max(0, _peak() - base)
    if seconds > SECONDS:
        failures.append(f"takes more than {SECONDS:.0f} s of the processor")
    if memory > MEMORY:
        failures.append(f"takes more than {MEMORY >> 20} MB")
    if failures and ended != "failure":
        ended = "failure"
    return {"ended": ended, "seconds": seconds, "memory": memory, "failures": failures}


def _can_be_written(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kind(error: BaseException) -> str:
    """The type of an exception and the last place of ours that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}layerselect{os.sep}" in frame.filename] or frames
    place = f"{os.path.basename(ours[-1].filename)}:{ours[-1].lineno}"
    return f"{type(error).__name__} at {place}: {str(error)[:100]!a}"


def _status(field: str) -> int:
    """A size from /proc/self/status, in bytes; 0 where there is no such file."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            found = next((line for line in lines if line.startswith(field + ":")), "")
    except OSError:
        return 0
    return int(found.split()[1]) * 1024 if found else 0


def _fresh_peak() -> int:
    """Memory in use now, from which the peak of a case is counted."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return _peak()  # the peak so far: what a case takes beyond it is still seen
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _limit(size: int) -> None:
    """Let allocations fail beyond `size`; the hard limit stays, so that the next case may have its own."""
    size = size + max(0, _status("VmData") - _status("VmRSS"))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], float(sys.argv[3]))
