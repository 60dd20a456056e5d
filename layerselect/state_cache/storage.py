"""What the shards of one store share: the memory that they may fill, their folder, and whether it can be
written.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class CacheStorage:
    """Room in memory, and a folder: the caller's, or a temporary one that is made when it is first needed.

    Args:
        folder: the caller's.
        memory: bytes.

    Attributes:
        lock: guards the counters here and everything that the shards hold in memory. Held for short: files are read and
            written without it.
        bytes_in_memory: that are taken.
        writes: False once the folder has failed. What is in it is still read.
    """

    def __init__(self, folder: Path | None, memory: int) -> None:
        self.folder = folder
        self.memory = memory
        self.lock = threading.Lock()
        self.bytes_in_memory = 0
        self.writes = True
        self._temporary: Path | None = None
        self._remove_temporary: weakref.finalize[..., Any] | None = None

    def take(self, size: int) -> bool:
        """Takes ``size`` bytes of memory if they are there. To be called with the lock held."""
        if self.bytes_in_memory + size > self.memory:
            return False
        self.bytes_in_memory += size
        return True

    def give_back(self, size: int) -> None:
        """The reverse of :meth:`take`. To be called with the lock held."""
        self.bytes_in_memory -= size

    def root(self) -> Path | None:
        """The folder of the shards, if there is one already."""
        return self.folder or self._temporary

    def root_to_write(self) -> Path:
        """The folder of the shards; made if there is none.

        Raises:
            OSError: there is no temporary folder and none can be made.
        """
        if self.folder is not None:
            return self.folder
        with self.lock:
            if self._temporary is None:
                self._temporary = Path(tempfile.mkdtemp(prefix="layerselect-state_cache-"))
                # Also at the end of the process, if nobody closes the store.
                self._remove_temporary = weakref.finalize(self, _remove_tree, self._temporary, os.getpid())
            return self._temporary

    def stop_writing(self, error: OSError) -> None:
        """Notes that the folder cannot be written, and says so the first time."""
        with self.lock:
            first, self.writes = self.writes, False
        if first:
            logger.warning(
                "cannot write to the state store in %s (%s): from now on, what does not fit into memory is computed "
                "again",
                self.root() or tempfile.gettempdir(),
                error.strerror or error,
            )

    def close(self) -> None:
        """Removes the temporary folder."""
        with self.lock:
            remove, self._remove_temporary, self._temporary = self._remove_temporary, None, None
        if remove is not None:
            remove()


def _remove_tree(folder: Path, owner: int) -> None:
    # A forked process has a copy of the store, not a folder of its own.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
