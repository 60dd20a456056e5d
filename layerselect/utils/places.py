"""Places for output: the path that an option names is checked before anything is loaded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import LayerSelectError
from .saved_words import shown
from .user_paths import user_path

#: What is added to a name while its place is written and replaced.
_AROUND = "..partial.discarded"
_LONGEST_NAME = 255
#: Folders above a place; more are a slip of a loop, and making them one in the other has an end somewhere.
_DEEPEST = 200


def output_path(
    out: str | Path,
    option: str = "--out",
    *,
    apart: Mapping[str, str | None] | None = None,
    kept: Mapping[str, str | None] | None = None,
) -> Path:
    """The place that an option names for output, a file or a folder. Looks at the path and at what is above it; writes
    nothing.

    Args:
        apart: options that name input, with their values; the place may be neither there, nor in it, nor around it.
        kept: likewise; the place may not be around it, since what stands there may be replaced.

    Raises:
        LayerSelectError: nothing can be written under that name, or input would be lost.
    """
    path = user_path(out, option, "is to be made")
    text = str(out)
    try:
        if path.name in ("", "..") or path.resolve() == Path.cwd():
            raise LayerSelectError(
                f"{option} {shown(text)} is the folder you stand in, one above it, or the root: name a new one, such "
                f"as {option} runs/first"
            )
        if len(path.parts) > _DEEPEST:
            raise LayerSelectError(f"{option} {shown(text)} lies {len(path.parts)} folders deep: choose another place")
        _check_above(path, f"{option} {shown(text)}")
        path.exists()
    except RuntimeError as error:
        raise LayerSelectError(f"{option} {shown(text)} is a circle of links: choose another place") from error
    except OSError as error:  # a name that is too long
        raise LayerSelectError(
            f"{option} {shown(text)} cannot be a name here ({error.strerror}): choose another one"
        ) from error
    limit = _LONGEST_NAME
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limit = os.pathconf(next(above for above in path.parents if above.is_dir()), "PC_NAME_MAX")
    if len(os.fsencode(path.name)) + len(_AROUND) > limit:
        raise LayerSelectError(
            f"{option} {shown(text)} is too long a name: choose one of at most {limit - len(_AROUND)} bytes"
        )
    _check_apart(path, f"{option} {shown(text)}", apart or {}, kept or {})
    return path


def output_file(out: str | Path, option: str = "--out", *, kept: Mapping[str, str | None] | None = None) -> Path:
    """Like :func:`output_path`, for a file. A file that is there already is replaced, and a link is followed.

    Raises:
        LayerSelectError: nothing can be written under that name, or a folder stands there.
    """
    path = output_path(out, option, kept=kept)
    if path.is_dir():
        raise LayerSelectError(f"{option} {shown(str(out))} is a folder: name a file in it")
    if str(out).endswith(("/", os.sep)):
        raise LayerSelectError(f"{option} {shown(str(out))} is the name of a folder: name a file")
    if not path.parent.is_dir():
        raise LayerSelectError(
            f"{option} {shown(str(out))}: there is no folder {shown(str(path.parent))}, so make it first"
        )
    return path.resolve() if path.is_symlink() else path


def _check_above(path: Path, named: str) -> None:
    """Demands that the nearest thing above ``path`` is a folder in which something can be made."""
    above = next((each for each in path.parents if each.exists()), Path("."))
    if not above.is_dir():
        raise LayerSelectError(f"{named} lies below {shown(str(above))}, which is a file: choose another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise LayerSelectError(f"{named}: nothing may be written in {shown(str(above))}, so choose another place")


def _check_apart(path: Path, named: str, apart: Mapping[str, str | None], kept: Mapping[str, str | None]) -> None:
    for option, value in {**kept, **apart}.items():
        source = _existing(value)
        if source is None:
            continue
        place = path.resolve()
        if place == source or place in source.parents:
            raise LayerSelectError(
                f"{option} {shown(str(value))} lies at {named} and would be replaced by it: choose another place"
            )
        if option in apart and source in place.parents and source.is_dir():
            raise LayerSelectError(f"{named} lies inside of {option} {shown(str(value))}: choose a place outside of it")


def _existing(value: str | None) -> Path | None:
    """The file or folder that an option for input names, if it names one: a path, or a path behind ``NAME:``."""
    if not value or value in ("demo", "-"):
        return None
    for text in (value, value.partition(":")[2]):
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            if text and Path(text).expanduser().exists():
                return Path(text).expanduser().resolve()
    return None
