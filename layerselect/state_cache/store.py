"""Where hidden states are kept: in memory as far as it reaches, and in files that later runs and other processes find."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import LayerSelectError
from ..utils.sizes import parse_bytes
from .backing import Backing
from .shelf import Shelf
from .shelf_folder import SHELF_NAME, open_shelf

__all__ = ["PRECISIONS", "Shelf", "TrunkStore", "default_folder"]

PRECISIONS = ("exact", "half")


def default_folder() -> Path:
    """Where the store is unless the caller says otherwise: in the user's cache folder."""
    own = os.environ.get("LAYERSELECT_CACHE")
    if own:
        return Path(own).expanduser() / "trunk"
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "layerselect" / "trunk"


class TrunkStore:
    """Keeps hidden states by fingerprint (which model, cut where) and key (which example).

    Nothing is ever evicted: an epoch reads everything once, so whatever was dropped would be the next to be needed.

    Args:
        folder: every entry is also written here, and found again by later runs and other processes. ``None``: what does not
            fit into memory goes to a temporary folder, which is removed at the end.
        memory: bytes of tensors held in memory at most, by all shelves together: a number, or one with a unit ("2GB"). 0
            holds nothing.
        precision: ``"exact"`` keeps every bit. ``"half"`` keeps float16, but an entry with a number too large for it exactly.

    Raises:
        LayerSelectError: ``memory`` is no size, or ``precision`` is unknown.
    """

    def __init__(
        self, folder: str | Path | None = None, *, memory: int | str = "2GB", precision: str = "exact"
    ) -> None:
        if precision not in PRECISIONS:
            raise LayerSelectError(f"precision={precision!r} is unknown: give one of {', '.join(PRECISIONS)}")
        self.precision = precision
        self._backing = Backing(
            None if folder is None else Path(folder).expanduser(), parse_bytes(memory, "memory", least=0)
        )
        self._shelves: dict[str, Shelf] = {}
        self._lock = threading.Lock()

    def shelf(self, fingerprint: str, facts: Mapping[str, Any]) -> Shelf:
        """The entries of one fingerprint. The same object for the same fingerprint, until it is closed.

        Args:
            fingerprint: 8 to 128 lower-case hexadecimal digits.
            facts: what people and reports want to know about the shelf, as JSON values: model, cut, layers, dtype.

        Raises:
            ValueError: a fingerprint of another kind.
        """
        half = self.precision == "half"
        name = fingerprint + "-half" * half
        if "-" in fingerprint or not SHELF_NAME.fullmatch(name):
            raise ValueError(f"a fingerprint is 8 to 128 lower-case hexadecimal digits, not {fingerprint!r}")
        with self._lock:
            shelf = self._shelves.get(name)
            if shelf is not None and not shelf.closed:
                return shelf
            if self.folder is not None:
                try:
                    open_shelf(self.folder / name, fingerprint, facts)
                except OSError as error:
                    self._backing.stop_writing(error)
            shelf = self._shelves[name] = Shelf(self._backing, name, half=half)
            return shelf

    @property
    def folder(self) -> Path | None:
        """The folder that was given."""
        return self._backing.folder

    @property
    def memory(self) -> int:
        """Bytes of tensors held in memory at most."""
        return self._backing.memory

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of tensors held in memory now, by all shelves together."""
        return self._backing.bytes_in_memory

    @property
    def shelves(self) -> list[Shelf]:
        """Those that were asked for and are not closed."""
        with self._lock:
            return [shelf for shelf in self._shelves.values() if not shelf.closed]

    def close(self) -> None:
        """Closes the shelves and removes the temporary folder. May be called twice."""
        with self._lock:
            shelves = list(self._shelves.values())
            self._shelves.clear()
        for shelf in shelves:
            shelf.close()
        self._backing.close()

    def __enter__(self) -> TrunkStore:
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
