"""A shard on disk: which files it consists of, how they are written whole and read.

    FOLDER/                    a store
      FINGERPRINT[-half]/      a shard
        shard.json             its label: whose hidden states these are; its time of change is the shard's last use
        3f/                    the entries whose key begins with these two digits
          3f09….entry
          .3f09….PID.RANDOM.partial   one that is being written

Files are written aside and renamed, without locks: of several processes that write one entry, the last one wins, and
nobody sees half of it. They are not flushed to the disk, which would cost more than computing them again: what a power
failure leaves of them is found by the checksum.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from ..utils.saved_files import DamagedFile, read_json
from ..utils.saved_schema import Fields, Mapped, Text
from .entry import DamagedEntry, decode

LABEL_FILE = "shard.json"
SHARD_NAME = re.compile(r"([0-9a-f]{8,128})(-half)?")
GROUP_NAME = re.compile(r"[0-9a-f]{2}")
ENTRY_NAME = re.compile(r"[0-9a-f]{32}\.entry")
#: Of an entry or a label.
PARTIAL_NAME = re.compile(r"\.[0-9a-z.]+\.[0-9]+\.[0-9a-f]{16}\.partial")

_VERSION = 1
_LABEL = Fields({"facts": Mapped()}, optional={"fingerprint": Text()})
_MOST_OF_A_LABEL = 1 << 20
_ABANDONED_AFTER_SECONDS = 3600.0
_ATTEMPTS = 2


def entry_path(shard: Path, key: bytes) -> str:
    """Where the entry of ``key`` is, or would be. A string: this is asked for every example of every epoch."""
    name = key.hex()
    return f"{shard}{os.sep}{name[:2]}{os.sep}{name}.entry"


def read_entry(shard: Path, key: bytes) -> tuple[Tensor, ...] | None:
    """A copy of the parts of an entry; ``None`` if there is no such file.

    Raises:
        DamagedEntry: there is one, but not with this entry in it.
        OSError: it cannot be read.
    """
    path = entry_path(shard, key)
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115
    except (FileNotFoundError, NotADirectoryError):
        return None
    with file:
        if os.fstat(file.fileno()).st_size == 0:  # cannot be mapped
            raise DamagedEntry(path, "it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return decode(content, key, path)


def write_file(path: str | Path, buffers: Sequence[Any]) -> int:
    """Puts a file in place, whole or not at all; makes its folders.

    Returns:
        Its length in bytes.

    Raises:
        OSError: it cannot be written. Nothing is left behind then, and what stood at ``path`` still stands.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _write_aside_and_rename(path, buffers)
        except FileNotFoundError:  # the first entry of a new folder, or somebody has just removed the shard
            os.makedirs(os.path.dirname(path), exist_ok=True)
    return _write_aside_and_rename(path, buffers)


def _write_aside_and_rename(path: str | Path, buffers: Sequence[Any]) -> int:
    folder, name = os.path.split(path)
    aside = os.path.join(folder, f".{name}.{os.getpid()}.{secrets.token_hex(8)}.partial")
    try:
        with open(aside, "xb", buffering=0) as file:
            length = sum(_write_all(file, memoryview(buffer)) for buffer in buffers)
        os.replace(aside, path)
    except BaseException:
        remove_file(aside)
        raise
    return length


def _write_all(file: Any, buffer: memoryview) -> int:
    length = len(buffer)
    while len(buffer):  # a disk that is nearly full takes a part first and refuses the rest
        buffer = buffer[file.write(buffer) :]
    return length


def remove_file(path: str | Path) -> bool:
    """Whether the file could be removed."""
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def open_shard(shard: Path, fingerprint: str, facts: Mapping[str, Any]) -> None:
    """Labels a shard unless it is labelled, notes that it is used now, and removes what killed processes left half
    written.

    Raises:
        OSError: it has no label and cannot get one.
    """
    label = read_label(shard)
    if label is None or label.get("fingerprint") != fingerprint:
        label = {"version": _VERSION, "fingerprint": fingerprint, "facts": dict(facts), "created": time.time()}
        write_file(shard / LABEL_FILE, [json.dumps(label, indent=1, default=str).encode()])
    else:
        with suppress(OSError):  # somebody else's store, which we may still read
            os.utime(shard / LABEL_FILE)
    now = time.time()
    for found in files_of(shard):
        if PARTIAL_NAME.fullmatch(found.name):
            try:
                abandoned = now - found.stat(follow_symlinks=False).st_mtime > _ABANDONED_AFTER_SECONDS
            except OSError:  # its writer has just finished it
                continue
            if abandoned:
                remove_file(found.path)


def read_label(shard: Path) -> dict[str, Any] | None:
    """What the label of a shard says; ``None`` if it has none or the label is damaged."""
    try:
        label: dict[str, Any] = read_json(shard / LABEL_FILE, _LABEL, advice="remove the shard", most=_MOST_OF_A_LABEL)
    except DamagedFile:
        return None
    return label


def files_of(shard: Path) -> Iterator[os.DirEntry[str]]:
    """The regular files of a shard that are ours: label, entries and what is being written. Links are not followed, and
    a folder that is not there has none.
    """
    for found in scan(shard):
        if found.is_dir(follow_symlinks=False) and GROUP_NAME.fullmatch(found.name):
            for inner in scan(found.path):
                ours = ENTRY_NAME.fullmatch(inner.name) or PARTIAL_NAME.fullmatch(inner.name)
                if ours and inner.is_file(follow_symlinks=False):
                    yield inner
        elif found.is_file(follow_symlinks=False) and (found.name == LABEL_FILE or PARTIAL_NAME.fullmatch(found.name)):
            yield found


def scan(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder, in order of the names; nothing if it is not there or cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError:
        return []
