"""Selector state on disk: tensors in a safetensors file, everything else in a JSON file beside it.

The JSON file is written last and seals its folder: it holds the lengths and checksums of the other files of the
checkpoint (weights, optimizer and random states). :func:`defect` compares them with the files.

A process that is killed at any moment (SIGKILL, out of memory, a full disk) leaves a folder whose seal fits, or one
that :func:`defect` finds incomplete. What a killed process had written is not lost. After a power failure a file that
another library wrote may be too short; :func:`defect` finds that, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import LayerSelectError
from .selector.selector import FastSelector
from .utils.saved_files import DamagedFile, inside, read_bytes, read_json, read_tensors
from .utils.saved_schema import Anything, Fields, Items, Mapped, Mismatch
from .utils.saved_words import shown

TENSORS_FILE = "selector.safetensors"
VALUES_FILE = "selector.json"

#: What a run is resumed from. Settings, model cards and logs may be touched up later without harm.
_SEALED = {".safetensors", ".bin", ".pt", ".pth", ".pkl", ".distcp"}
#: Files of other processes than the first may still be on their way when the first one seals the folder.
_OF_OTHERS = re.compile(r"_[1-9]\d*\.(pth|pkl)$")

_ADVICE = "resume from an older checkpoint"
_SEAL = Fields(optional={"files": Mapped(Items(Anything(), length=2))})

_SAMPLES = 16
_SAMPLE_BYTES = 65536


def save_selector(selector: FastSelector, folder: str | Path, *, also: Sequence[str] = ()) -> str:
    """Writes the selector's state into ``folder`` and seals what the folder holds. Call it last, when all other files
    of the checkpoint are written.

    Both files are written aside first and then renamed.

    Args:
        also: names of further files to seal; weights, optimizer states and random states always are.

    Returns:
        The checksum of the seal, hexadecimal (see :func:`seal`).

    Raises:
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    tensors, values = _flatten(selector.state_dict())
    _replace(folder / TENSORS_FILE, lambda path: save_file(tensors, path))
    sealed = [path for path in sorted(folder.rglob("*")) if _is_sealed(path) or path.name in also]
    files = {path.relative_to(folder).as_posix(): _fingerprint(path) for path in sealed}
    text = json.dumps({**values, "files": files}, indent=1)
    _replace(folder / VALUES_FILE, lambda path: path.write_text(text, encoding="utf-8"))
    return _checksum(text.encode())


def load_selector(selector: FastSelector, folder: str | Path) -> None:
    """Continues ``selector`` from the state in ``folder``. The other files there are not looked at (see
    :func:`defect`).

    Raises:
        LayerSelectError: there is none, it is damaged, or it belongs to another model or rule.
    """
    folder = Path(folder)
    for name in (VALUES_FILE, TENSORS_FILE):
        if not (folder / name).is_file():
            raise LayerSelectError(f"{folder} holds no {name}: it is not a checkpoint with a selector in it")
    values = read_json(
        folder / VALUES_FILE, Mapped(), advice=_ADVICE, constants=True
    )  # a rule of one's own may have saved them
    tensors = read_tensors(folder / TENSORS_FILE, advice=_ADVICE)
    try:
        state = _nest(tensors, values)
    except Mismatch as error:
        raise DamagedFile(folder / TENSORS_FILE, str(error), _ADVICE) from error
    try:
        selector.load_state_dict(state)
    except LayerSelectError as error:
        raise LayerSelectError(f"{folder}: {error}") from None


def defect(folder: str | Path) -> str | None:
    """What keeps ``folder`` from being a complete checkpoint, as part of a sentence; ``None`` if nothing does.

    Files are compared by their length and by the checksum of up to 16 evenly spread blocks of 64 KiB. So a checkpoint
    of any size is checked in milliseconds. A file that was cut short, or left from another save, is found. A single
    flipped bit in the middle of a large file may not be found.
    """
    folder = Path(folder)
    try:
        files = read_seal(folder)
    except DamagedFile as error:
        return f"it holds no {VALUES_FILE}" if error.missing else f"its {VALUES_FILE} cannot be read"
    for name, sealed in files.items():
        try:
            found = _fingerprint(inside(folder, name, source=folder / VALUES_FILE, advice=_ADVICE))
        except DamagedFile as error:
            return f"its {VALUES_FILE} cannot be trusted: {error.why}"
        except OSError:
            return f"its {name} is missing"
        if found != sealed:
            return f"its {name} is not the one that was saved with the selector"
    return None


def read_seal(folder: str | Path) -> dict[str, Any]:
    """The files of a checkpoint that were sealed with the selector, and what they looked like.

    Raises:
        DamagedFile: there is no seal, or it is damaged.
    """
    path = Path(folder) / VALUES_FILE
    files: dict[str, Any] = read_json(path, _SEAL, advice=_ADVICE, constants=True).get("files", {})
    return files


def seal(folder: str | Path) -> str | None:
    """The checksum of the seal in ``folder``, which tells this checkpoint from every other; ``None`` if there is
    none.
    """
    try:
        return _checksum(read_bytes(Path(folder) / VALUES_FILE, advice=_ADVICE))
    except DamagedFile:
        return None


def _is_sealed(path: Path) -> bool:
    # What is being written aside by another process has a name with a dot in front.
    return path.suffix in _SEALED and not path.name.startswith(".") and not _OF_OTHERS.search(path.name)


def _fingerprint(path: Path) -> list[Any]:
    """Length in bytes, and the checksum of the whole file or of samples spread evenly from its first to its last
    byte.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _SAMPLES * _SAMPLE_BYTES:
            return [size, _checksum(file.read())]
        blocks = []
        for number in range(_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
            blocks.append(file.read(_SAMPLE_BYTES))
        return [size, _checksum(b"".join(blocks))]


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _flatten(state: dict[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Splits nested dicts into tensors under dotted names and the same nesting of JSON values."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, Tensor):
            tensors[prefix + key] = value.contiguous()
        elif isinstance(value, dict):
            inner, values[key] = _flatten(value, f"{prefix}{key}.")
            tensors.update(inner)
        else:
            values[key] = value
    return tensors, values


def _nest(tensors: dict[str, Tensor], values: dict[str, Any]) -> dict[str, Any]:
    """Puts tensors to the values that they were saved with.

    Raises:
        Mismatch: the values have no such place.
    """
    for name, tensor in tensors.items():
        *path, key = name.split(".")
        place: Any = values
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or key in place:
            raise Mismatch(shown(name), f"has no place in {VALUES_FILE}")
        place[key] = tensor
    return values


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
