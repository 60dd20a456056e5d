"""Where hidden states are kept: in memory as far as it reaches, and in files that later runs and other processes find."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..card.memory import parse_bytes
from ..errors import LayerSelectError
from . import shelf_folder
from .entry import DamagedEntry, check, encode

logger = logging.getLogger(__name__)

PRECISIONS = ("exact", "half")


def default_folder() -> Path:
    """Where stores are unless the caller says otherwise: in the user's cache folder."""
    own = os.environ.get("LAYERSELECT_CACHE")
    if own:
        return Path(own).expanduser() / "trunk"
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "layerselect" / "trunk"


class TrunkStore:
    """Keeps hidden states by fingerprint (which model, cut where) and key (which example).

    Nothing is ever evicted: an epoch reads everything once, so that whatever was dropped would be the next to be needed.

    Args:
        folder: every entry is also written here, and found again by later runs and other processes. ``None``: what does not
            fit into memory goes to a temporary folder, which is removed at the end.
        memory: bytes of tensors held in memory at most, by all shelves together: a number, or one with a unit ("2GB"). 0
            holds nothing.
        precision: ``"exact"`` keeps every bit. ``"half"`` keeps float16, but entries with a number too large for it exactly.

    Raises:
        LayerSelectError: ``memory`` is no size, or ``precision`` is unknown.
    """

    def __init__(
        self, folder: str | Path | None = None, *, memory: int | str = "2GB", precision: str = "exact"
    ) -> None:
        if precision not in PRECISIONS:
            raise LayerSelectError(f"precision={precision!r} is unknown: give one of {', '.join(PRECISIONS)}")
        self.folder = None if folder is None else Path(folder).expanduser()
        self.precision = precision
        self.memory = _parse_memory(memory)
        self._bytes_in_memory = 0
        self._lock = threading.Lock()
        self._shelves: dict[str, Shelf] = {}
        self._writes = True
        self._spill: Path | None = None
        self._remove_spill: weakref.finalize | None = None

    def shelf(self, fingerprint: str, facts: Mapping[str, Any]) -> Shelf:
        """The entries of one fingerprint. The same object for the same fingerprint until it is closed.

        Args:
            fingerprint: hexadecimal digits, 8 at least.
            facts: what people and reports want to know about the shelf, as JSON values: model, cut, layers, dtype.

        Raises:
            ValueError: a fingerprint of another kind.
        """
        name = fingerprint + ("-half" if self.precision == "half" else "")
        if "-" in fingerprint or not shelf_folder.SHELF_NAME.fullmatch(name):
            raise ValueError(f"a fingerprint is 8 to 128 lower-case hexadecimal digits, not {fingerprint!r}")
        with self._lock:
            shelf = self._shelves.get(name)
            if shelf is not None:
                return shelf
            shelf = self._shelves[name] = Shelf(self, name)
        if self.folder is not None:
            try:
                shelf_folder.open_shelf(self.folder / name, fingerprint, facts)
            except OSError as error:
                self._stop_writing(error)
        return shelf

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of the tensors that all shelves hold."""
        return self._bytes_in_memory

    def close(self) -> None:
        """Lets go of everything in memory, and removes the temporary folder. May be called twice."""
        for shelf in list(self._shelves.values()):
            shelf.close()
        if self._remove_spill is not None:
            self._remove_spill()

    def __enter__(self) -> TrunkStore:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    def _spill_folder(self) -> Path:
        with self._lock:
            if self._spill is None:
                self._spill = Path(tempfile.mkdtemp(prefix="layerselect-trunk-"))
                # Also at the end of the process, if nobody closes the store.
                self._remove_spill = weakref.finalize(self, _remove_tree, self._spill, os.getpid())
            return self._spill

    def _stop_writing(self, error: OSError) -> None:
        with self._lock:
            first, self._writes = self._writes, False
        if first:
            where = self.folder or self._spill or tempfile.gettempdir()
            logger.warning(
                "cannot write to the trunk store in %s (%s): from now on, what does not fit into memory is computed again",
                where,
                error.strerror or error,
            )


class Shelf:
    """The entries of one fingerprint. Made by :meth:`TrunkStore.shelf`; several threads may use it at a time.

    A shelf that was closed is empty and takes nothing.

    Attributes:
        hits: entries that :meth:`get` returned.
        misses: entries that it did not have, damaged ones included.
        damaged: entries that were there and could not be trusted.
        bytes_in_memory: of the tensors held.
        bytes_on_disk: of the files written through this object.
    """

    def __init__(self, store: TrunkStore, name: str) -> None:
        self.hits = self.misses = self.damaged = 0
        self.bytes_in_memory = self.bytes_on_disk = 0
        self._store = store
        self._name = name
        self._lock = store._lock
        self._held: dict[bytes, _Held] = {}
        self._closed = False

    def get(self, key: bytes) -> tuple[Tensor, ...] | None:
        """The parts of an entry, in the dtype in which they are kept; ``None`` if it is to be computed.

        The tensors may be the ones that the shelf holds: read them, do not write to them. An entry that was written to is
        noticed when it is next asked for (unless it was done behind torch's back) and not returned.

        Args:
            key: 16 bytes.
        """
        with self._lock:
            held = self._held.get(key)
            if held is not None and held.is_untouched():
                self.hits += 1
                return held.hand_out()
            if held is not None:
                self._drop(key)
        if held is not None:
            self._report_damage(f"entry {key.hex()} in memory", "its reader has written to it")
        parts = self._read(key)
        with self._lock:
            if parts is None:
                self.misses += 1
                return None
            self.hits += 1
            kept = self._keep(key, parts)
        return parts if kept is None else kept.hand_out()

    def put(self, key: bytes, parts: Sequence[Tensor]) -> None:
        """Keeps an entry, copied, as far as there is room. Does nothing if it is in memory already.

        Args:
            key: 16 bytes.
            parts: 1 or 2 tensors on the CPU; float32, float16, bfloat16 or float64; any shape.

        Raises:
            ValueError: a key or parts of another kind.
        """
        check(key, parts)
        if key in self._held or self._closed:
            return
        # Tensors made in inference mode could not be used in training later.
        with torch.inference_mode(False), torch.no_grad():
            parts = _in_half(parts) if self._store.precision == "half" else tuple(parts)
            with self._lock:
                kept = self._keep(key, parts, copy=True)
        if kept is None or self._store.folder is not None:
            self._write(key, parts)

    def __contains__(self, key: bytes) -> bool:
        """Whether there is such an entry. Whether the file is whole only :meth:`get` finds out."""
        if key in self._held:
            return True
        folder = self._folder()
        return folder is not None and os.path.exists(shelf_folder.entry_path(folder, key))

    def __len__(self) -> int:
        """Entries in memory and on disk, those of other processes included; looks through the folder."""
        with self._lock:
            names = {f"{key.hex()}.entry" for key in self._held}
        folder = self._folder()
        if folder is not None:
            names.update(f.name for f in shelf_folder.files_of(folder) if shelf_folder.ENTRY_NAME.fullmatch(f.name))
        return len(names)

    def close(self) -> None:
        """Lets go of what the shelf holds in memory. Files stay."""
        with self._lock:
            self._closed = True
            for key in list(self._held):
                self._drop(key)
            if self._store._shelves.get(self._name) is self:
                del self._store._shelves[self._name]

    def _folder(self) -> Path | None:
        if self._closed:
            return None
        root = self._store.folder or self._store._spill
        return None if root is None else root / self._name

    def _read(self, key: bytes) -> tuple[Tensor, ...] | None:
        folder = self._folder()
        if folder is None:
            return None
        try:
            return shelf_folder.read_entry(folder, key)
        except DamagedEntry as damage:
            shelf_folder.remove_file(damage.source)
            self._report_damage(damage.source, damage.reason)
        except OSError as error:  # says little about the file: it stays
            self._report_damage(shelf_folder.entry_path(folder, key), error.strerror or str(error))
        return None

    def _write(self, key: bytes, parts: Sequence[Tensor]) -> None:
        if self._closed or not self._store._writes:
            return
        try:
            root = self._store.folder or self._store._spill_folder()
            length = shelf_folder.write_file(shelf_folder.entry_path(root / self._name, key), encode(key, parts))
        except OSError as error:
            self._store._stop_writing(error)
            return
        with self._lock:
            self.bytes_on_disk += length

    def _keep(self, key: bytes, parts: Sequence[Tensor], copy: bool = False) -> _Held | None:
        """What is held of the entry from now on, or was already; ``None`` if there is no room. The lock is held."""
        held = self._held.get(key)
        if held is not None or self._closed:
            return held
        size = sum(part.nbytes for part in parts)
        if self._store._bytes_in_memory + size > self._store.memory:
            return None
        held = self._held[key] = _Held(tuple(part.clone() for part in parts) if copy else tuple(parts))
        self.bytes_in_memory += size
        self._store._bytes_in_memory += size
        return held

    def _drop(self, key: bytes) -> None:
        held = self._held.pop(key)
        self.bytes_in_memory -= held.size
        self._store._bytes_in_memory -= held.size

    def _report_damage(self, source: str, reason: str) -> None:
        with self._lock:
            self.damaged += 1
            first = self.damaged == 1
        if first:
            logger.warning(
                "%s is damaged (%s): it is computed again and replaced, and so is every other such entry",
                source,
                reason,
            )


class _Held:
    """An entry in memory."""

    __slots__ = ("_parts", "_versions", "size")

    def __init__(self, parts: tuple[Tensor, ...]) -> None:
        self._parts = parts
        self._versions = tuple(part._version for part in parts)
        self.size = sum(part.nbytes for part in parts)

    def is_untouched(self) -> bool:
        """torch counts how often a tensor's memory was written to, whatever view it was done through."""
        return tuple(part._version for part in self._parts) == self._versions

    def hand_out(self) -> tuple[Tensor, ...]:
        # New objects on the same memory: a reader that asks for gradients does not make ours ask for them.
        return tuple(part.detach() for part in self._parts)


def _in_half(parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """In float16, unless a finite number would become infinite."""
    halves = tuple(part.to(torch.float16) for part in parts)
    for part, half in zip(parts, halves, strict=True):
        too_large = half.isinf() & ~part.isinf()
        if too_large.any():
            return tuple(parts)
    return halves


def _parse_memory(memory: int | str) -> int:
    if memory == "0" or (isinstance(memory, int) and not isinstance(memory, bool) and memory == 0):
        return 0
    try:
        return parse_bytes(memory)
    except LayerSelectError:
        raise LayerSelectError(
            f"memory={memory!r} is no size: give bytes or a number with a unit, such as 2GB or 512MiB"
        ) from None


def _remove_tree(folder: Path, owner: int) -> None:
    # A forked process has a copy of the store, not a folder of its own.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
