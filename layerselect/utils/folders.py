"""Output that is either complete or not there, whenever the process is killed and even if the power fails."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import LayerSelectError
from .claims import Claim
from .places import output_path


@contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """A folder to write in, which becomes ``target`` if the block ends well and is removed if it does not.

    Raises:
        LayerSelectError: ``target`` exists and is not an empty folder.
    """
    target = output_path(target, "the folder")
    check_free(target)
    claim = Claim(target)
    partial = partial_folder(target)
    try:
        discard(partial)
        partial.mkdir(parents=True)
        yield partial
        move_into_place(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        claim.release()


@contextmanager
def new_file(target: str | Path) -> Iterator[Path]:
    """A file to write, which becomes ``target`` if the block ends well and is removed if it does not. Pipes and devices
    (``/dev/stdout``) are written as they are.

    Raises:
        LayerSelectError: another process writes it.
    """
    target = Path(target)
    if target.exists() and not target.is_file():
        yield target
        return
    claim = Claim(target)
    scratch = partial_folder(target)
    try:
        yield scratch
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
        claim.release()


def check_free(target: Path) -> None:
    """Raises ``LayerSelectError`` unless ``target`` is free: not there, or an empty folder."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        what = "folder that is not empty" if target.is_dir() else "file"
        raise LayerSelectError(f"{str(target)!r} is a {what}: choose another place, or remove it")


def partial_folder(target: Path) -> Path:
    """Where ``target`` is written until it is complete: its sibling ``NAME.partial``."""
    return target.with_name(target.name + ".partial")


def final_place(path: Path, within: Path) -> Path:
    """Where ``path`` will stand when the runs around ``within`` are complete: see :func:`partial_folder`.

    Args:
        path, within: whole paths; ``within`` is being written, and a run that is has its ``config.json``.
    """
    for folder in (within, *within.parents):
        moves = folder.name.endswith(".partial") and (folder / "config.json").is_file()
        if moves and folder in (path, *path.parents):
            path = folder.with_name(folder.name.removesuffix(".partial")) / path.relative_to(folder)
    return path


def replaced_folder(target: Path) -> Path:
    """Where the old content of ``target`` is kept while it is replaced."""
    return target.with_name(target.name + ".old")


def move_into_place(partial: Path, target: Path) -> None:
    """Renames ``partial`` to ``target``. What stood there is removed only after the new folder stands, and everything
    is on the disk before anything is removed.
    """
    old = replaced_folder(target)
    _flush(partial)
    if target.exists():
        discard(old)
        target.rename(old)
    partial.rename(target)
    _flush_entry(target.parent)
    discard(old)


def discard(folder: Path) -> None:
    """Removes a folder, if it is there. It is renamed first, so that nobody takes half of it for the whole."""
    trash = folder.with_name(f".{folder.name}.discarded")
    if trash.exists():  # a process was killed here
        shutil.rmtree(trash)
    if folder.exists():
        folder.rename(trash)
        shutil.rmtree(trash)


def _flush(folder: Path) -> None:
    """Waits until the disk holds what the folder holds."""
    for path in folder.rglob("*"):
        _flush_entry(path)
    _flush_entry(folder)


def _flush_entry(path: Path) -> None:
    if os.name == "nt":  # Windows opens no folders and flushes only what is open for writing
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
