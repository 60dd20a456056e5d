"""How much room the cached hidden states of a run take, and whether the disk has it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...state_cache import StateCache
from ...utils.sizes import show_bytes


def size_record(state_cache: StateCache, layers: int, lengths: Sequence[int]) -> dict[str, Any]:
    """What the cached hidden states of examples of these lengths will take.

    Returns:
        ``cut`` and ``layers``; ``bytes_per_token``, ``tokens``, ``examples``, ``bytes`` of all; ``stored``, how many
        entries are there already, those of the batches seen so far among them; ``folder`` and ``memory`` of the store;
        ``warning``, a sentence if the disk has less room than they need, or ``None``.
    """
    store, tokens = state_cache.store, sum(lengths)
    assert state_cache.bytes_per_token is not None
    size, stored = state_cache.bytes_per_token * tokens, sum(len(shard) for shard in store.shards)
    on_disk = size if store.folder is not None else max(0, size - store.memory)
    # Examples that are alike share an entry, so their number alone does not tell that all are there.
    missing = 0.0 if state_cache.filled == 0 else max(0, len(lengths) - stored) / len(lengths)
    return {
        "cut": state_cache.cut,
        "layers": layers,
        "bytes_per_token": state_cache.bytes_per_token,
        "tokens": tokens,
        "examples": len(lengths),
        "bytes": size,
        "stored": stored,
        "folder": None if store.folder is None else str(store.folder),
        "memory": store.memory,
        "warning": _no_room(int(on_disk * missing), store.folder or Path(tempfile.gettempdir())),
    }


def _no_room(needed: int, folder: Path) -> str | None:
    """A sentence if the disk of a folder has less room than is needed."""
    free = shutil.disk_usage(_existing(folder)).free
    if needed <= free:
        return None
    return (
        f"the hidden states need about {show_bytes(needed)} more in {folder}, where {show_bytes(free)} are free: "
        "what does not fit is computed again; choose another disk with --state-cache-store, or half the size with "
        "--state-cache-precision half"
    )


def _existing(folder: Path) -> Path:
    """The folder, or the lowest one above it that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())
