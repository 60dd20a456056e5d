"""The one way to read a file that somebody saved. Nothing in it is trusted, and what is wrong is one sentence.

Every reader of JSON documents, JSON lines and safetensors in the package goes through here. A file is refused if it is
no regular file, if it is too long, if its JSON is not strict (:mod:`layerselect.utils.saved_json`), or if a value has
another type, range or length than its description asks for (:mod:`layerselect.utils.saved_schema`). The sentence says
which file is meant, where in it, what is wrong and what to do.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import LayerSelectError
from .saved_json import parse_json
from .saved_schema import Anything, Kind, Mismatch, check
from .saved_words import shown

#: Bytes of a JSON document; the largest that is written, the selections of a million steps, has some 100 MB.
MOST_BYTES = 256 << 20
#: Bytes of a file of JSON lines, and of one line of it.
MOST_BYTES_OF_LINES = 2 << 30
MOST_BYTES_OF_A_LINE = 64 << 20


class DamagedFile(LayerSelectError):
    """A saved file that cannot be used.

    Attributes:
        path: of the file.
        why: what is wrong with it, as part of a sentence.
        missing: whether it is not there.
    """

    def __init__(self, path: str | Path, why: str, advice: str, *, missing: bool = False, what: str = "") -> None:
        self.path, self.why, self.missing = Path(path), why, missing
        verb = "cannot be read" if missing else "is damaged"
        super().__init__(f"{what}{str(path)!r} {verb} ({why}): {advice}")


def read_bytes(path: str | Path, *, advice: str, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file.

    Args:
        advice: what to do where it cannot be used, as the end of the sentence.
        most: how many bytes it may have.

    Raises:
        DamagedFile: it is missing, of another kind, too long, or cannot be read.
    """
    if "\0" in str(path):
        raise DamagedFile(path, "no file has such a name", advice, missing=True)
    try:
        # Without O_NONBLOCK a pipe would be waited for.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise DamagedFile(path, "it is a folder or a device, not a file", advice)
            if found.st_size > most:
                raise DamagedFile(path, f"it has {found.st_size} bytes, and at most {most} are read", advice)
            content = file.read(found.st_size)
    except FileNotFoundError as error:
        raise DamagedFile(path, "No such file", advice, missing=True) from error
    except OSError as error:
        raise DamagedFile(path, f"it cannot be opened: {error.strerror or error}", advice) from error
    return content


def read_json(
    path: str | Path, kind: Kind | None = None, *, advice: str, constants: bool = False, most: int = MOST_BYTES
) -> Any:
    """The value in a JSON file.

    Args:
        kind: what it must be.
        advice: what to do where it cannot be used, as the end of the sentence.
        constants: whether ``NaN`` and ``Infinity`` are read, which Python writes and JSON does not know.

    Raises:
        DamagedFile: it is missing, or is not that.
    """
    content = read_bytes(path, advice=advice, most=most)
    try:
        value = parse_json(content, constants=constants)
        check(kind or Anything(), value)
    except Mismatch as error:
        raise DamagedFile(path, str(error), advice) from error
    return value


def read_json_lines(
    path: str | Path, kind: Kind | None = None, *, advice: str, constants: bool = True, torn: bool = False
) -> tuple[list[Any], str | None]:
    """The values in a file of JSON lines. Lines end at line feeds only: texts may hold other separators.

    Args:
        kind: what each must be.
        torn: whether the file is a log of a process that may have been killed, so that its last line may be a part of
            one.

    Returns:
        The values, and what was wrong with a last line that was left out; ``None`` if nothing was.

    Raises:
        DamagedFile: it is missing, or a line is not that.
    """
    content = read_bytes(path, advice=advice, most=MOST_BYTES_OF_LINES)
    values: list[Any] = []
    for number, line, is_whole in _lines(content):
        try:
            if len(line) > MOST_BYTES_OF_A_LINE:
                raise Mismatch("", f"it has {len(line)} bytes, and at most {MOST_BYTES_OF_A_LINE} of a line are read")
            value = parse_json(line, constants=constants)
            check(kind or Anything(), value)
        except Mismatch as error:
            if torn and not is_whole:
                return values, str(error)
            raise DamagedFile(path, f"line {number}: {error}", advice) from error
        values.append(value)
    return values, None


def read_tensors(path: str | Path, kind: Kind | None = None, *, advice: str, framework: str = "pt") -> dict[str, Any]:
    """All tensors of a safetensors file, by name.

    Args:
        kind: what they must be.
        framework: ``pt`` for tensors of torch, ``np`` for arrays of NumPy.

    Raises:
        DamagedFile: it is missing, or is not that.
    """
    tensors = {}
    with open_tensors(path, advice=advice, framework=framework) as content:
        for name in content.keys():  # noqa: SIM118, it is no dict
            tensors[name] = _tensor(content, name, path, advice)
    try:
        check(kind or Anything(), tensors)
    except Mismatch as error:
        raise DamagedFile(path, str(error), advice) from error
    return tensors


def open_tensors(path: str | Path, *, advice: str, framework: str = "pt") -> Any:
    """A safetensors file, opened; to be used with ``with``.

    Raises:
        DamagedFile: it is missing, or is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if not Path(path).is_file():  # a pipe would be waited for
            missing = not Path(path).exists()
            raise DamagedFile(path, "No such file" if missing else "it is no file", advice, missing=missing)
        return safe_open(path, framework=framework)
    except (OSError, SafetensorError) as error:
        raise DamagedFile(path, _one_line(error), advice) from error


def _tensor(content: Any, name: str, path: str | Path, advice: str) -> Any:
    from safetensors import SafetensorError

    try:
        return content.get_tensor(name)
    # An unknown type of numbers is whatever the library's tables raise.
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DamagedFile(path, f"{shown(name)}: {_one_line(error)}", advice) from error


def inside(folder: str | Path, name: str, *, source: str | Path, advice: str) -> Path:
    """The file ``name`` of a folder, where another file names it.

    Args:
        source: the file that names it.

    Raises:
        DamagedFile: the name leads out of the folder: it is absolute, goes up, or is a link to elsewhere.
    """
    folder = Path(folder)
    parts = Path(name).parts
    if not name or "\0" in name or Path(name).is_absolute() or ".." in parts or "\\" in name:
        raise DamagedFile(source, f"it names {shown(name)}, which is no file inside of its folder", advice)
    path = folder / name
    if not _stays(path, folder):
        raise DamagedFile(source, f"it names {shown(name)}, which is a link out of its folder", advice)
    return path


def _stays(path: Path, folder: Path) -> bool:
    try:
        target, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError):  # a circle of links
        return False
    homes = [
        home,
        *(above.parent / "blobs" for above in home.parents if above.name == "snapshots"),
    ]  # as the hub's cache links
    return any(target.is_relative_to(place) for place in homes)


def _lines(content: bytes) -> Iterator[tuple[int, bytes, bool]]:
    """Number, bytes, and whether it has its end; lines without anything are passed over."""
    start, number = 0, 0
    while start < len(content):
        end = content.find(b"\n", start)
        number += 1
        line = content[start : len(content) if end < 0 else end]
        start += len(line) + 1
        if line.strip():
            yield number, line, end >= 0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
