"""What a store on disk holds, and how it is cleared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LayerSelectError
from ..utils.saved_schema import Mismatch, Number, check
from ..utils.user_paths import user_path
from .shard_folder import ENTRY_NAME, GROUP_NAME, LABEL_FILE, SHARD_NAME, files_of, read_label, remove_file, scan

_SHOWN_DIGITS = 12
_LAST_YEAR = 253_402_300_799  # seconds from 1970 to the end of the year 9999, the last that dates know


@dataclass(frozen=True)
class ShardInfo:
    """One shard of a store.

    Attributes:
        folder: where it is.
        fingerprint: of the model and its cut, hexadecimal.
        precision: ``"exact"`` or ``"half"``.
        facts: what its maker said about it; empty if the label is missing or damaged.
        entries: how many.
        bytes: of all its files.
        created: seconds since 1970; ``None`` if the label is missing or damaged.
        last_used: when it was last opened, in seconds since 1970; ``None`` if there is no label.
    """

    folder: Path
    fingerprint: str
    precision: str
    facts: dict[str, Any]
    entries: int
    bytes: int
    created: float | None
    last_used: float | None

    @property
    def id(self) -> str:
        """A short name, by which :func:`remove_shards` finds it."""
        return self.fingerprint[:_SHOWN_DIGITS] + ("-half" if self.precision == "half" else "")


def list_shards(folder: str | Path) -> list[ShardInfo]:
    """The shards in ``folder``, in order of their fingerprints. A folder that is not there holds none, and what is not
    a shard of ours is left out: links, other names, folders with other things in them and no label.
    """
    return [
        _look(Path(found.path))
        for found in scan(user_path(folder, "the folder of the store"))
        if found.is_dir(follow_symlinks=False) and SHARD_NAME.fullmatch(found.name) and _is_shard(found.path)
    ]


def remove_shards(folder: str | Path, ids: Sequence[str], *, everything: bool = False) -> list[ShardInfo]:
    """Removes shards: the files that a store writes, and the folders that are empty then. Anything else in them stays.

    Args:
        ids: of the shards, as :attr:`ShardInfo.id` or the beginning of the folder's name.
        everything: all shards; ``ids`` is to be empty then.

    Returns:
        The shards that were removed, with the sizes that they had.

    Raises:
        LayerSelectError: an id is unknown or means several shards, or nothing says which; nothing was removed then. Or
            some files could not be removed.
    """
    if everything == bool(ids):
        raise LayerSelectError("say which shards to remove: either their ids or all of them, not both")
    shards = list_shards(folder)
    chosen = shards if everything else [_find(shards, given, folder) for given in dict.fromkeys(ids)]
    chosen = list({shard.folder: shard for shard in chosen}.values())
    for shard in chosen:
        _clear(shard.folder)
        left = sum(1 for _ in files_of(shard.folder))
        if left:
            raise LayerSelectError(
                f"{left} files in {str(shard.folder)!r} could not be removed: stop the runs that fill it, or see who "
                "owns it"
            )
    return chosen


def _is_shard(folder: str) -> bool:
    """Whether the store made it: it has a label, or nothing but entries (a process was killed while it removed it)."""
    inside = scan(folder)
    if any(found.name == LABEL_FILE and found.is_file(follow_symlinks=False) for found in inside):
        return True
    ours = {found.path for found in files_of(Path(folder))}
    for found in inside:
        if found.is_dir(follow_symlinks=False) and GROUP_NAME.fullmatch(found.name):
            if any(inner.path not in ours for inner in scan(found.path)):
                return False
        elif found.path not in ours:
            return False
    return bool(ours)


def _look(folder: Path) -> ShardInfo:
    entries = size = 0
    for file in files_of(folder):
        with suppress(OSError):  # renamed or removed meanwhile
            size += file.stat(follow_symlinks=False).st_size
            entries += ENTRY_NAME.fullmatch(file.name) is not None
    label = read_label(folder) or {}
    created = label.get("created")
    try:
        last_used = os.stat(folder / LABEL_FILE, follow_symlinks=False).st_mtime
    except OSError:
        last_used = None
    name = SHARD_NAME.fullmatch(folder.name)
    assert name is not None  # only such folders are looked into
    fingerprint, half = name.groups()
    return ShardInfo(
        folder,
        fingerprint,
        "half" if half else "exact",
        label.get("facts", {}),
        entries,
        size,
        created if _is_time(created) else None,
        last_used,
    )


def _is_time(value: Any) -> bool:
    try:
        check(Number(0, _LAST_YEAR), value)
    except Mismatch:
        return False
    return True


def _find(shards: Sequence[ShardInfo], given: str, folder: str | Path) -> ShardInfo:
    """The shard that is named or shown as ``given`` says; else the one whose name begins so."""
    for meant in (
        [shard for shard in shards if shard.folder.name == given],
        [shard for shard in shards if shard.id == given],
        [shard for shard in shards if given and shard.folder.name.startswith(given)],
    ):
        if len(meant) == 1:
            return meant[0]
        if meant:
            names = ", ".join(shard.folder.name for shard in meant)
            raise LayerSelectError(
                f"{given!r} means several shards in {str(folder)!r}: give more of the name ({names})"
            )
    known = ", ".join(shard.id for shard in shards)
    advice = f"it holds {known}" if known else "it is empty"
    raise LayerSelectError(f"there is no shard {given!r} in {str(folder)!r}: {advice}")


def _clear(folder: Path) -> None:
    for file in list(files_of(folder)):
        remove_file(file.path)
    for found in scan(folder):
        if found.is_dir(follow_symlinks=False) and GROUP_NAME.fullmatch(found.name):
            with suppress(OSError):  # holds something else
                os.rmdir(found.path)
    with suppress(OSError):
        os.rmdir(folder)
