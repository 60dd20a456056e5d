"""Output folders that are either complete or not there, whenever the process is killed and even if the power fails; and that one
process at a time writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import LayerSelectError
from .saved_words import shown

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


def output_path(out: str | Path, option: str = "--out") -> Path:
    """The place that an option names for output, a file or a folder. Looks at the path alone and at what is above it; writes nothing.

    Raises:
        LayerSelectError: nothing can be written under that name.
    """
    text = str(out)
    if not text.strip():
        raise LayerSelectError(
            f"{option} is empty (is a variable of the shell not set?): name a place that is to be made"
        )
    if "\0" in text:
        raise LayerSelectError(f"{option} {shown(text)} holds a NUL character: name a place that can be made")
    try:
        text.encode("utf-8", "surrogateescape")
        path = Path(text).expanduser()
    except (RuntimeError, UnicodeEncodeError) as error:
        raise LayerSelectError(
            f"{option} {shown(text)} is no place here ({error}): name one that can be made"
        ) from error
    if path.name in ("", "..") or path.resolve() == Path.cwd():
        raise LayerSelectError(
            f"{option} {shown(text)} is the folder you stand in, one above it, or the root: name a new one, such as {option} runs/first"
        )
    for above in path.parents:
        try:
            if above.is_dir():
                if not os.access(above, os.W_OK | os.X_OK):
                    raise LayerSelectError(
                        f"{option} {shown(text)}: nothing may be written in {shown(str(above))}, so choose another place"
                    )
                break
            if above.exists():
                raise LayerSelectError(
                    f"{option} {shown(text)} lies below {shown(str(above))}, which is a file: choose another place"
                )
        except OSError as error:
            raise LayerSelectError(
                f"{option} {shown(text)} cannot be looked at ({error.strerror}): choose another place"
            ) from error
    try:
        path.exists()
    except OSError as error:  # a name that is too long
        raise LayerSelectError(
            f"{option} {shown(text)} cannot be a name here ({error.strerror}): choose a shorter one"
        ) from error
    limit = 255
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limit = os.pathconf(next(a for a in path.parents if a.is_dir()), "PC_NAME_MAX")
    if len(os.fsencode(path.name)) + len("..partial.discarded") > limit:
        raise LayerSelectError(f"{option} {shown(text)} is too long a name: choose one of at most {limit - 20} bytes")
    return path


def output_file(out: str | Path, option: str = "--out") -> Path:
    """The path of a file that is to be written; a file that stands there already will be replaced.

    Raises:
        LayerSelectError: nothing can be written under that name, or a folder stands there.
    """
    path = output_path(out, option)
    if path.is_dir():
        raise LayerSelectError(f"{option} {shown(str(out))} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise LayerSelectError(
            f"{option} {shown(str(out))}: there is no folder {shown(str(path.parent))}, so make it first"
        )
    return path


class Claim:
    """Says that this process writes ``target``, until it is released or the process ends, however it ends.

    Of the processes of one ``torchrun`` only the first claims. The lock is a file beside the target, ``.NAME.lock``; one that a killed
    process left is taken over. Where the file system has no locks, nothing is claimed.

    Raises:
        LayerSelectError: another process writes it.
    """

    def __init__(self, target: Path) -> None:
        self._path = target.with_name(f".{target.name}.lock")
        self.release = lambda: None
        if fcntl is None or os.environ.get("RANK", "0") != "0":
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise LayerSelectError(
                        f"another run is writing to {str(partial_folder(target))!r}: wait for it, or choose another --out"
                    ) from None
                return  # no locks here
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                    break
            os.close(descriptor)  # who had it has removed it meanwhile
        self.release = weakref.finalize(self, _release, self._path, descriptor, os.getpid())


def _release(path: Path, descriptor: int, owner: int) -> None:
    if os.getpid() == owner:  # and not a process that was forked from it
        path.unlink(missing_ok=True)
    os.close(descriptor)


@contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """A folder to write in, which becomes ``target`` if the block ends well and is removed if it does not.

    Raises:
        LayerSelectError: ``target`` exists and is not an empty folder.
    """
    target = output_path(target, "the target")
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
    """A file to write, which becomes ``target`` if the block ends well and is removed if it does not.

    Raises:
        LayerSelectError: another process writes it.
    """
    target = Path(target)
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


def replaced_folder(target: Path) -> Path:
    """Where what stood at ``target`` waits for its end while it is replaced."""
    return target.with_name(target.name + ".old")


def move_into_place(partial: Path, target: Path) -> None:
    """Renames ``partial`` to ``target``. What stood there is removed only after the new folder stands, and everything is
    on the disk before anything is removed.
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
    """Removes a folder, if it is there. It loses its name first: nobody takes half of it for the whole."""
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
