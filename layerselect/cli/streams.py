"""The three streams of a command, whatever the shell made of them: closed, of another encoding than UTF-8, or nobody
reads.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO

from ..utils.saved_words import SURROGATE

#: 128 and the number of SIGPIPE.
EXIT_PIPE = 141
#: Columns below which a table shows its lines and nothing between them.
_FEWEST = 60


def prepare_streams() -> None:
    """Gives every stream that is closed an end, and lets no character that an encoding lacks stop a command.

    What is read by people is then written with escapes in the place of such characters. What is read by programs is
    :func:`write_data`.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - it is to stay open
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    columns = os.environ.get("COLUMNS", "")
    if columns and not (columns.isascii() and columns.isdigit() and int(columns[:6]) >= _FEWEST):
        os.environ["COLUMNS"] = str(_FEWEST) if columns.isascii() and columns.isdigit() else "80"


def write_data(text: str) -> None:
    """Writes text to the standard output as UTF-8, whatever the locale says."""
    stream = sys.stdout
    buffer = getattr(stream, "buffer", None)
    if buffer is None:  # a notebook's
        stream.write(text)
        return
    stream.flush()
    buffer.write(text.encode("utf-8", "backslashreplace"))
    buffer.flush()


def json_line(value: Any, **layout: Any) -> str:
    """A value as JSON that every program can read: surrogates, which are no characters, are escaped."""
    text = json.dumps(value, ensure_ascii=False, **layout)
    return (json.dumps(value, **layout) if SURROGATE.search(text) else text) + "\n"


def write_json(value: Any) -> None:
    """Writes a result as JSON to the standard output. JSON has no number for what is none: it is ``null``."""
    write_data(json_line(_plain(value), indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    """A value of types that JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def say(line: str) -> None:
    """Writes a line to the standard error, if it can be written."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def leave_pipe() -> int:
    """What is still to be written goes nowhere: whoever read it is gone. Gives the status that shells expect then."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
            continue
        with suppress(OSError, ValueError):
            _point_away(stream)
    return EXIT_PIPE


def _point_away(stream: TextIO) -> None:
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
