"""What came of a trial: what went wrong, where, and what the package warned of."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Wrong(Exception):
    """Something that must hold did not."""


@contextmanager
def warnings_in() -> Iterator[list[str]]:
    """The warnings of the package in the block."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logger = logging.getLogger("layerselect")
    logger.addHandler(listener)
    try:
        yield said
    finally:
        logger.removeHandler(listener)


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def where(error: Exception) -> str:
    """The last lines of code of ours that it went through, and where it was raised."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append((code.co_filename, f"{Path(code.co_filename).name}:{trace.tb_lineno}"))
        trace = trace.tb_next
    ours = [name for file, name in frames if "layerselect" in file][-3:]
    return " ".join([*ours, frames[-1][1]])
