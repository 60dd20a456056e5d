"""Where hidden states are kept: in memory as far as it reaches, and in files that later runs and other processes
find.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import LayerSelectError
from ..utils.sizes import parse_bytes
from ..utils.user_paths import user_path
from .shard import CacheShard
from .shard_folder import SHARD_NAME, open_shard
from .storage import CacheStorage

__all__ = ["PRECISIONS", "CacheShard", "StateStore", "default_folder"]

PRECISIONS = ("exact", "half")


def default_folder() -> Path:
    """Where the store is unless the caller says otherwise: in the user's cache folder."""
    own = os.environ.get("LAYERSELECT_CACHE")
    if own:
        return user_path(own, "$LAYERSELECT_CACHE") / "states"
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "layerselect" / "states"


class StateStore:
    """Keeps hidden states by fingerprint (which model, cut where) and key (which example).

    Nothing is ever evicted: an epoch reads everything once, so whatever was dropped would be the next to be needed.

    Args:
        folder: every entry is also written here, and found again by later runs and other processes. ``None``: what does
            not fit into memory goes to a temporary folder, which is removed at the end.
        memory: bytes of tensors held in memory at most, by all shards together: a number, or one with a unit ("2GB"). 0
            holds nothing.
        precision: ``"exact"`` keeps every bit. ``"half"`` keeps float16, but an entry with a number too large for it
            exactly.

    Raises:
        LayerSelectError: ``memory`` is no size, or ``precision`` is unknown.
    """

    def __init__(
        self, folder: str | Path | None = None, *, memory: int | str = "2GB", precision: str = "exact"
    ) -> None:
        if precision not in PRECISIONS:
            raise LayerSelectError(f"precision={precision!r} is unknown: give one of {', '.join(PRECISIONS)}")
        self.precision = precision
        self._storage = CacheStorage(
            None if folder is None else user_path(folder, "the folder of the store"),
            parse_bytes(memory, "memory", least=0),
        )
        self._shards: dict[str, CacheShard] = {}
        self._lock = threading.Lock()

    def shard(self, fingerprint: str, facts: Mapping[str, Any]) -> CacheShard:
        """The entries of one fingerprint. The same object for the same fingerprint, until it is closed.

        Args:
            fingerprint: 8 to 128 lower-case hexadecimal digits.
            facts: what people and reports want to know about the shard, as JSON values: model, cut, layers, dtype.

        Raises:
            ValueError: a fingerprint of another kind.
        """
        half = self.precision == "half"
        name = fingerprint + "-half" * half
        if "-" in fingerprint or not SHARD_NAME.fullmatch(name):
            raise ValueError(f"a fingerprint is 8 to 128 lower-case hexadecimal digits, not {fingerprint!r}")
        with self._lock:
            shard = self._shards.get(name)
            if shard is not None and not shard.closed:
                return shard
            if self.folder is not None:
                try:
                    open_shard(self.folder / name, fingerprint, facts)
                except OSError as error:
                    self._storage.stop_writing(error)
            shard = self._shards[name] = CacheShard(self._storage, name, half=half)
            return shard

    @property
    def folder(self) -> Path | None:
        """The folder that was given."""
        return self._storage.folder

    @property
    def memory(self) -> int:
        """Bytes of tensors held in memory at most."""
        return self._storage.memory

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of tensors held in memory now, by all shards together."""
        return self._storage.bytes_in_memory

    @property
    def shards(self) -> list[CacheShard]:
        """The shards that were asked for and are not closed."""
        with self._lock:
            return [shard for shard in self._shards.values() if not shard.closed]

    def close(self) -> None:
        """Closes the shards and removes the temporary folder. May be called twice."""
        with self._lock:
            shards = list(self._shards.values())
            self._shards.clear()
        for shard in shards:
            shard.close()
        self._storage.close()

    def __enter__(self) -> StateStore:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()


def is_size(memory: int | str) -> bool:
    """Whether a store takes it for an amount of memory."""
    try:
        parse_bytes(memory, "memory", least=0)
    except LayerSelectError:
        return False
    return True
