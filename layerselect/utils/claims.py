"""One writer for each output: a lock tells other processes which one writes a place."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import weakref
from collections.abc import Callable
from pathlib import Path

from ..errors import LayerSelectError
from .launch import is_first_of_launch

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_HELD = (errno.EACCES, errno.EAGAIN)


class Claim:
    """Says that this process writes ``target``, until it is released or the process ends, however it ends.

    The lock is a file beside the target, ``.NAME.lock``, in which the process is named. One that a killed process left
    is taken over: its lock ended with it, and where the file system has no locks, the process is looked for. Folders
    above the target are made for it, and removed if nothing came into them. Of the processes of one ``torchrun`` only
    the first claims.

    Raises:
        LayerSelectError: another process writes it, or nothing can be written there.
    """

    def __init__(self, target: Path) -> None:
        self._path = target.with_name(f".{target.name}.lock")
        self._target = target
        self.release: Callable[[], object] = lambda: None
        if not is_first_of_launch():
            return
        made = [above for above in target.parents if not above.exists()]
        try:
            descriptor = self._take()
        except OSError as error:
            _remove_empty(made)
            raise LayerSelectError(
                f"nothing can be written in {str(target.parent)!r} ({error.strerror}): choose another place"
            ) from error
        except LayerSelectError:
            _remove_empty(made)
            raise
        self.release = weakref.finalize(self, _release, self._path, descriptor, os.getpid(), made)

    def _take(self) -> int:
        """The descriptor of the lock, which is ours."""
        while True:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:
                continue  # another run has removed the folder that it had made
            try:
                if self._is_ours(descriptor):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, _this_process().encode(), 0)
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _is_ours(self, descriptor: int) -> bool:
        """Whether the lock is taken now; not if its file was removed meanwhile.

        Raises:
            LayerSelectError: another process has it.
        """
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            writer = os.pread(descriptor, 200, 0).decode("utf-8", "replace")
            if error.errno in _HELD:
                raise LayerSelectError(self._refusal(writer)) from error
            # No locks on this file system, so the process that is named there is looked for.
            if _may_live(writer):
                hint = f", or remove {str(self._path)!r} if that run has ended"
                raise LayerSelectError(self._refusal(writer) + hint) from error
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        return False

    def _refusal(self, writer: str) -> str:
        partial = self._target.with_name(self._target.name + ".partial")
        pid, host = [*writer.split(), "", ""][:2]
        who = f" (process {pid} on {host})" if pid.isascii() and pid.isdigit() and host.isprintable() else ""
        return f"another run is writing to {str(partial)!r}{who}: wait for it, or choose another --out"


def _this_process() -> str:
    return f"{os.getpid()} {socket.gethostname()} {_started(os.getpid())}\n"


def _started(pid: int) -> str:
    """When a process began, in the kernel's words; empty where it does not say. A number may be given again to another
    process.
    """
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    return ""


def _may_live(writer: str) -> bool:
    """Whether the process that a lock names may still be at work. One of another machine may."""
    words = writer.split()
    if len(words) < 2 or not (words[0].isascii() and words[0].isdigit()):
        return False
    pid = int(words[0])
    if words[1] != socket.gethostname() or os.name == "nt":  # where a signal of 0 is not a question
        return True
    if pid == os.getpid() or pid == 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return len(words) < 3 or words[2] == _started(pid)


def _release(path: Path, descriptor: int, owner: int, made: list[Path]) -> None:
    if os.getpid() == owner:  # and not a process that was forked from it
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        _remove_empty(made)
    os.close(descriptor)


def _remove_empty(folders: list[Path]) -> None:
    """Removes folders, the innermost first, until one holds something."""
    for folder in folders:
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return
