"""Selector state on disk: tensors in a safetensors file, everything else in a JSON file beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import LayerSelectError
from .selector import FastSelector

TENSORS_FILE = "selector.safetensors"
VALUES_FILE = "selector.json"


def save_selector(selector: FastSelector, folder: str | Path) -> None:
    """Writes the selector's state into ``folder``. Both files are written aside first and then renamed.

    Raises:
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    tensors, values = _flatten(selector.state_dict())
    _replace(folder / TENSORS_FILE, lambda path: save_file(tensors, path))
    # Last, since a reader takes this file for the sign that the state is whole.
    _replace(folder / VALUES_FILE, lambda path: path.write_text(json.dumps(values, indent=1), encoding="utf-8"))


def load_selector(selector: FastSelector, folder: str | Path) -> None:
    """Continues ``selector`` from the state in ``folder``.

    Raises:
        LayerSelectError: there is none, it is damaged, or it belongs to another model or rule.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in (VALUES_FILE, TENSORS_FILE):
        if not (folder / name).is_file():
            raise LayerSelectError(f"{folder} holds no {name}: it is not a checkpoint with a selector in it")
    try:
        values = json.loads((folder / VALUES_FILE).read_text(encoding="utf-8"))
        state = _nest(load_file(folder / TENSORS_FILE), values)
        selector.load_state_dict(state)
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError, KeyError, RuntimeError) as error:
        raise LayerSelectError(
            f"the selector state in {folder} is damaged ({error}): resume from an older checkpoint"
        ) from error


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
    for name, tensor in tensors.items():
        *path, key = name.split(".")
        place = values
        for part in path:
            place = place[part]
        place[key] = tensor
    return values


def _replace(path: Path, write: Any) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
