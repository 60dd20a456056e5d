"""The entries of one fingerprint, in memory and on disk."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from . import shard_folder
from .entry import DamagedEntry, check, encode
from .storage import CacheStorage

logger = logging.getLogger(__name__)


class CacheShard:
    """The entries of one fingerprint. Made by :meth:`StateStore.shard`; several threads may use it at a time.

    A shard that was closed is empty and takes nothing.

    Attributes:
        hits: entries that :meth:`get` returned.
        misses: entries that it did not have, damaged ones included.
        damaged: entries that were there and could not be trusted.
        bytes_in_memory: of the tensors held.
        bytes_on_disk: of the files written through this object.
        closed: whether :meth:`close` was called.
    """

    def __init__(self, storage: CacheStorage, name: str, *, half: bool) -> None:
        self.hits = self.misses = self.damaged = 0
        self.bytes_in_memory = self.bytes_on_disk = 0
        self.closed = False
        self._storage = storage
        self._lock = storage.lock
        self._name = name
        self._half = half
        self._held: dict[bytes, _Held] = {}

    def get(self, key: bytes) -> tuple[Tensor, ...] | None:
        """The parts of an entry, in the dtype in which they are kept; ``None`` if it is to be computed.

        The tensors may be the ones that the shard holds: read them, do not write to them. An entry that was written to
        nevertheless is noticed when it is next asked for, unless that was done behind torch's back, and is not
        returned.

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
            self._report_damage(f"entry {key.hex()} in memory", "somebody who was given it has written to it")
        parts = self._read(key)
        with self._lock:
            if parts is None:
                self.misses += 1
                return None
            self.hits += 1
            kept = self._keep(key, parts)
        return parts if kept is None else kept.hand_out()

    def put(self, key: bytes, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Keeps an entry, copied, as far as there is room; nothing is done if it is in memory already.

        Args:
            key: 16 bytes.
            parts: 1 or 2 tensors on the CPU; float32, float16, bfloat16 or float64; any shape.

        Returns:
            The parts as :meth:`get` will return them, in half precision where the store keeps that.

        Raises:
            ValueError: a key or parts of another kind.
        """
        check(key, parts)
        # Tensors made in inference mode could not be used in training later.
        with torch.inference_mode(False), torch.no_grad():
            parts = _in_half(parts) if self._half else tuple(parts)
            if key in self._held or self.closed:
                return parts
            with self._lock:
                kept = self._keep(key, parts, copy=True)
        if kept is None or self._storage.folder is not None:
            self._write(key, parts)
        return parts

    def __contains__(self, key: bytes) -> bool:
        """Whether there is such an entry. Whether the file is whole only :meth:`get` finds out."""
        if key in self._held:
            return True
        folder = self._folder()
        return folder is not None and os.path.exists(shard_folder.entry_path(folder, key))

    def __len__(self) -> int:
        """Entries in memory and on disk, those of other processes included; looks through the folder."""
        with self._lock:
            names = {f"{key.hex()}.entry" for key in self._held}
        folder = self._folder()
        if folder is not None:
            names.update(f.name for f in shard_folder.files_of(folder) if shard_folder.ENTRY_NAME.fullmatch(f.name))
        return len(names)

    def close(self) -> None:
        """Lets go of what the shard holds in memory. Files stay."""
        with self._lock:
            self.closed = True
            for key in list(self._held):
                self._drop(key)

    def _folder(self) -> Path | None:
        root = None if self.closed else self._storage.root()
        return None if root is None else root / self._name

    def _read(self, key: bytes) -> tuple[Tensor, ...] | None:
        folder = self._folder()
        if folder is None:
            return None
        try:
            return shard_folder.read_entry(folder, key)
        except DamagedEntry as damage:
            shard_folder.remove_file(damage.source)
            self._report_damage(damage.source, damage.reason)
        except OSError as error:  # says little about the file, which therefore stays
            self._report_damage(shard_folder.entry_path(folder, key), error.strerror or str(error))
        return None

    def _write(self, key: bytes, parts: Sequence[Tensor]) -> None:
        if self.closed or not self._storage.writes:
            return
        try:
            root = self._storage.root_to_write()
            place = shard_folder.entry_path(root / self._name, key)
            if os.path.exists(place):  # another process, or another row of the batch, was faster
                return
            length = shard_folder.write_file(place, encode(key, parts))
        except OSError as error:
            self._storage.stop_writing(error)
            return
        with self._lock:
            self.bytes_on_disk += length
        if self.closed and self._storage.folder is None:  # closed meanwhile: the temporary folder is not to come back
            shutil.rmtree(root, ignore_errors=True)

    def _keep(self, key: bytes, parts: Sequence[Tensor], copy: bool = False) -> _Held | None:
        """What is held of the entry from now on, or was already; ``None`` if there is no room. The lock is held."""
        held = self._held.get(key)
        if held is not None or self.closed or not self._storage.take(sum(part.nbytes for part in parts)):
            return held
        held = self._held[key] = _Held(tuple(part.clone() for part in parts) if copy else tuple(parts))
        self.bytes_in_memory += held.size
        return held

    def _drop(self, key: bytes) -> None:
        size = self._held.pop(key).size
        self.bytes_in_memory -= size
        self._storage.give_back(size)

    def _report_damage(self, source: str, reason: str) -> None:
        with self._lock:
            self.damaged += 1
            first = self.damaged == 1
        if first:
            logger.warning(
                "%s is damaged (%s): it is computed again and replaced, as is every other one", source, reason
            )


class _Held:
    """An entry in memory."""

    __slots__ = ("_parts", "_versions", "size")

    def __init__(self, parts: tuple[Tensor, ...]) -> None:
        self._parts = parts
        self._versions = tuple(part._version for part in parts)
        self.size = sum(part.nbytes for part in parts)

    def is_untouched(self) -> bool:
        """Whether nobody wrote to the memory of the tensors: torch counts that, whatever view of it was used."""
        return tuple(part._version for part in self._parts) == self._versions

    def hand_out(self) -> tuple[Tensor, ...]:
        # New objects on the same memory: a reader that asks for gradients does not make ours ask for them.
        return tuple(part.detach() for part in self._parts)


def _in_half(parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """In float16, unless a finite number would become infinite."""
    halves = tuple(part.to(torch.float16) for part in parts)
    for part, half in zip(parts, halves, strict=True):
        if (half.isinf() & ~part.isinf()).any():
            return tuple(parts)
    return halves
