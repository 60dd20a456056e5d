"""Output folders that are either complete or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import LayerSelectError


@contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """A folder to write in, which becomes ``target`` if the block ends well and is removed if it does not.

    Raises:
        LayerSelectError: ``target`` exists and is not an empty folder.
    """
    target = Path(target)
    check_free(target)
    partial = partial_folder(target)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    move_into_place(partial, target)


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


def move_into_place(partial: Path, target: Path) -> None:
    """Renames ``partial`` to ``target``. What stood there is removed only after the new folder stands."""
    old = target.with_name(target.name + ".old")
    if target.exists():
        if old.exists():
            shutil.rmtree(old)
        target.rename(old)
    partial.rename(target)
    if old.exists():
        shutil.rmtree(old)
