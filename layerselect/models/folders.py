"""Folders of models as other people leave them: what is missing, cut short or something else is found before anything
is loaded.

Nothing outside of a folder is read for it, no pickle is opened, and a name that can only be a folder's is never asked
of a hub.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

from ..errors import LayerSelectError
from .held_sizes import Held, check_layers

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_HUB_ID = re.compile(r"[\w.\-]+(/[\w.\-]+)?")
_LFS = b"version https://git-lfs"
#: A safetensors file begins with the length of its header, in so many bytes.
_LENGTH = 8
#: JSON of a folder that is longer is no description of a model.
_LONGEST_JSON = 200_000_000
#: Weights in formats that hold code or need another framework.
_OTHER_WEIGHTS = ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.npz")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "*.model",
    "*.spm",
    "vocab*",
    "merges.txt",
    "*.tiktoken",
    "tekken.json",
    "spiece*",
)


def checked_source(source: str | Path, *, weights: bool = True) -> str:
    """The folder of a model that may be loaded, or a hub id.

    What begins with ``.``, ``/`` or ``~``, or whose first part is an existing folder, is a path.

    Args:
        weights: they are wanted, too, not only the tokenizer.

    Raises:
        LayerSelectError: there is no such folder, or what is in it cannot be loaded, with the reason.
    """
    text = str(source)
    path, is_folder, is_file = _looked_at(source)
    if is_folder:
        check_folder(path, weights=weights)
        return str(path)
    if is_file:
        if path.suffix == ".gguf":
            raise LayerSelectError(
                f"{text!r} is a GGUF file: make a plain folder of it with 'layerselect doctor --unpack {source} DIR' "
                "and pass that folder"
            )
        raise LayerSelectError(f"{text!r} is a file: pass the folder that holds config.json and the weights")
    if isinstance(source, Path) or _is_path(text) or not _HUB_ID.fullmatch(text):
        raise LayerSelectError(
            f"there is no model folder {text!r}{_alike(path)}; pass an existing folder or a hub id such as org/name"
        )
    return text


def _looked_at(source: str | Path) -> tuple[Path, bool, bool]:
    """The path that a source may be, and whether a folder or a file is there."""
    try:
        path = Path(source).expanduser()
        return path, path.is_dir(), path.is_file()
    except (ValueError, RuntimeError, OSError) as error:  # a NUL in it, ~nobody, too long for a name
        raise LayerSelectError(
            f"there is no model folder {str(source)!r} ({error}): pass an existing folder or a hub id"
        ) from error


def checked_configuration(source: str | Path) -> str:
    """The folder of a ``config.json``, such a file itself, or a hub id: of a model of which nothing else is wanted.

    Raises:
        LayerSelectError: there is none.
    """
    path, is_folder, is_file = _looked_at(source)
    if is_file and path.suffix == ".json":
        check_configuration(path)
        return str(path)
    if is_folder:
        if not (path / CONFIG).is_file():
            raise LayerSelectError(f"the folder {str(source)!r} holds no config.json{_hint(path)}")
        check_configuration(path / CONFIG)
        return str(path)
    return checked_source(source, weights=False)


def check_configuration(path: Path) -> None:
    """Looks through a ``config.json`` for what would keep a model from being made of it.

    Raises:
        LayerSelectError: something would.
    """
    _check_pointers(path.parent, (path.name,))
    config = _read_object(path)
    if not isinstance(config.get("model_type", ""), str):
        raise LayerSelectError(f"{str(path)!r} has no name as its model_type: take it from where the model was made")
    check_layers(config, Held(), str(path.parent))


def check_folder(folder: Path, *, weights: bool = True) -> None:
    """Looks through a folder for what would keep its model from being loaded.

    Raises:
        LayerSelectError: something would.
    """
    if not (folder / CONFIG).is_file():
        raise LayerSelectError(
            f"the folder {str(folder)!r} holds no config.json, so it is not a saved model{_hint(folder)}"
        )
    _check_pointers(folder, (CONFIG, *_TOKENIZER))
    config = _read_object(folder / CONFIG)
    if not isinstance(config.get("model_type", ""), str):
        raise LayerSelectError(
            f"the config.json of {str(folder)!r} has no name as its model_type: take it from where the model was made"
        )
    check_layers(config, held_in(folder) if weights else Held(), str(folder))
    if not any(any(folder.glob(pattern)) for pattern in _TOKENIZER):
        raise LayerSelectError(
            f"the folder {str(folder)!r} holds no tokenizer (tokenizer.json or a vocabulary): save it there with "
            "tokenizer.save_pretrained"
        )


def held_in(folder: Path) -> Held:
    """What the files of weights in a folder hold together.

    Raises:
        LayerSelectError: there are none, some are missing, or one of them is damaged.
    """
    return sum((check_safetensors(path) for path in weight_files(folder)), Held())


def check_safetensors(path: Path) -> Held:
    """What a file of weights holds, from its header; finds out whether it is whole.

    Raises:
        LayerSelectError: it is a git-lfs pointer, empty, cut short, or something else.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(64)
        if first.startswith(_LFS):
            raise _pointer(path)
        if not first:
            raise LayerSelectError(f"{str(path)!r} is empty: download it again")
        length = int.from_bytes(first[:_LENGTH], "little")
        if size < _LENGTH or first[_LENGTH : _LENGTH + 1] != b"{":
            raise LayerSelectError(
                f"{str(path)!r} is no file in safetensors format (it begins with {first[:12]!r}): save the model "
                "again with save_pretrained"
            )
        if length > min(size - _LENGTH, _LONGEST_JSON):
            raise LayerSelectError(f"{str(path)!r} is cut short at {size} bytes: download it again")
        file.seek(_LENGTH)
        header = file.read(length)
    held = _held(path, header)
    needed = _LENGTH + length + held.size
    if size < needed:
        raise LayerSelectError(f"{str(path)!r} is cut short: it has {size} of its {needed} bytes, so download it again")
    return held


def _held(path: Path, header: bytes) -> Held:
    damaged = LayerSelectError(f"the header of {str(path)!r} is damaged: download it again")
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(entries, dict):
        raise damaged
    most = 0
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        ends = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not (isinstance(ends, list) and len(ends) == 2 and all(type(end) is int and end >= 0 for end in ends)):
            raise damaged
        most = max(most, *ends)
    return Held(len(entries) - ("__metadata__" in entries), most)


def weight_files(folder: Path) -> list[Path]:
    """The files of weights that would be loaded, each of which is there.

    Raises:
        LayerSelectError: there are none, or some are missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder)
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    if found and any("-of-" in name for name in found):
        raise LayerSelectError(
            f"the folder {str(folder)!r} holds {found[0]} but not {INDEX}, which says what is in it: download that, too"
        )
    others = sorted({path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern)})
    if others:
        raise LayerSelectError(
            f"the folder {str(folder)!r} holds no weights in safetensors format, only {others[0]}, which is not read "
            "(such files may run code): load it where it was made and save it with save_pretrained"
        )
    has = f", only {found[0]}: it must be named {WEIGHTS}" if found else ": download or save it again"
    raise LayerSelectError(f"the folder {str(folder)!r} holds no weights in safetensors format ({WEIGHTS}){has}")


def _shards(folder: Path) -> list[Path]:
    _check_pointers(folder, (INDEX,))
    places = _read_object(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise LayerSelectError(
            f"the {INDEX} of {str(folder)!r} does not say which file holds which weights: download it again"
        )
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name or "\\" in name or "\0" in name or name in ("", ".", ".."):
            raise LayerSelectError(
                f"the {INDEX} of {str(folder)!r} names {name[:80]!r}, which is no file of that folder: nothing else "
                "is read"
            )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise LayerSelectError(
            f"the folder {str(folder)!r} lacks "
            f"{missing[0]}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''} of the {len(names)} files "
            "that hold its weights: download the rest"
        )
    return [folder / name for name in names]


def _read_object(path: Path) -> dict[str, Any]:
    place = f"the {path.name} of {str(path.parent)!r}"
    if path.stat().st_size > _LONGEST_JSON:
        raise LayerSelectError(f"{place} has {path.stat().st_size} bytes, too many for one: download it again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # other bytes than UTF-8 among them
        raise LayerSelectError(
            f"{place} cannot be read ({' '.join(str(error).split())[:120]}): download it again"
        ) from error
    if not isinstance(content, dict):
        raise LayerSelectError(f"{place} holds no JSON object: download it again")
    return content


def _check_pointers(folder: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.is_file():
                with path.open("rb") as file:
                    if file.read(len(_LFS)) == _LFS:
                        raise _pointer(path)


def _pointer(path: Path) -> LayerSelectError:
    return LayerSelectError(
        f"{str(path)!r} is a git-lfs pointer and not the file itself, which was not downloaded: run 'git lfs pull' "
        "in its folder"
    )


def _is_path(text: str) -> bool:
    if text.startswith((".", "/", "~")):
        return True
    first, slash, _ = text.partition("/")
    return bool(slash) and Path(first).is_dir()


def _alike(path: Path) -> str:
    """The folder beside it that was probably meant."""
    try:
        beside = [each.name for each in path.parent.iterdir() if each.is_dir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, beside, n=1)
    return f" (is it {str(path.parent / close[0])!r}?)" if close else ""


def _hint(path: Path) -> str:
    if (path / "adapter_config.json").is_file() or (path / "adapter" / "adapter_config.json").is_file():
        return " (it holds an adapter: pass the model it was trained on)"
    if any(path.glob("*.gguf")):
        return " (it holds a GGUF file: see 'layerselect doctor --unpack')"
    return ""
