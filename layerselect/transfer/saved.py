"""The files of a trained predictor: what was trained, and its tensors, read from safetensors files only."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import LayerSelectError

_META = "layerselect.json"
_SCHEMA = 1
_SETTINGS = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_MODEL_WEIGHTS = "model.safetensors"
_MODEL_INDEX = "model.safetensors.index.json"


class SavedAdapter:
    """An adapter on the disk, or a whole model whose layers were trained.

    Args:
        folder: the folder of the run, or its ``adapter`` folder.

    Attributes:
        path: the ``adapter`` folder.
        meta: the content of ``layerselect.json``; ``adapter`` is one of the package's kinds, ``identity`` a dict.
        shapes: of every tensor, by key.

    Raises:
        LayerSelectError: there is no adapter, or it is damaged or of another version.
    """

    def __init__(self, folder: str | Path) -> None:
        from ..tasks.saved_adapter import find_adapter  # loads peft and transformers

        self.path = find_adapter(folder)
        self.meta = self._checked_meta()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        for file in self._weight_files():
            with self._opened(file) as content:
                for key in content.keys():  # noqa: SIM118, it is no dict
                    self.shapes[key] = tuple(content.get_slice(key).get_shape())
                    self._files[key] = file

    @property
    def kind(self) -> str:
        """Which adapter it is; ``none`` for a whole model."""
        return self.meta["adapter"]

    def settings(self) -> dict[str, Any]:
        """The configuration that ``peft`` saved with the adapter.

        Raises:
            LayerSelectError: it is missing or damaged.
        """
        content = self._read_json(_SETTINGS)
        if not isinstance(content, dict):
            raise self.damaged(f"{_SETTINGS} holds no settings")
        return content

    def load(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Tensors by key, on the CPU."""
        by_file: dict[Path, list[str]] = {}
        for key in keys:
            by_file.setdefault(self._files[key], []).append(key)
        values = {}
        for file, wanted in by_file.items():
            with self._opened(file) as content:
                values.update({key: content.get_tensor(key) for key in wanted})
        return values

    def damaged(self, why: str) -> LayerSelectError:
        return LayerSelectError(f"the predictor {str(self.path)!r} is damaged ({why}): train it again")

    def _checked_meta(self) -> dict[str, Any]:
        from ..tasks.adapters import ADAPTERS  # loads peft and transformers

        meta = self._read_json(_META)
        schema = meta.get("schema") if isinstance(meta, dict) else None
        if schema != _SCHEMA:
            raise LayerSelectError(
                f"{str(self.path / _META)!r} has schema {schema!r} and this version reads {_SCHEMA}: train the predictor again"
            )
        if meta.get("adapter") not in ADAPTERS or not isinstance(meta.get("identity"), dict):
            raise self.damaged(f"{_META} names no adapter or no base model")
        return meta

    def _weight_files(self) -> list[Path]:
        if self.kind != "none":
            return [self.path / _WEIGHTS]
        if not (self.path / _MODEL_INDEX).is_file():
            return [self.path / _MODEL_WEIGHTS]
        index = self._read_json(_MODEL_INDEX)
        places = index.get("weight_map") if isinstance(index, dict) else None
        # A name with a folder in it would lead elsewhere.
        if not isinstance(places, dict) or not all(isinstance(n, str) and Path(n).name == n for n in places.values()):
            raise self.damaged(f"{_MODEL_INDEX} names no files")
        return [self.path / name for name in sorted(set(places.values()))]

    def _opened(self, file: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        if not file.is_file():
            raise self.damaged(f"{file.name} is missing, and other formats are not read")
        try:
            return safe_open(file, framework="pt")
        except (OSError, SafetensorError) as error:
            raise self.damaged(f"{file.name} cannot be read: {error}") from error

    def _read_json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise self.damaged(f"{name} is missing") from error
        except (OSError, ValueError) as error:
            raise self.damaged(f"{name} cannot be read: {error}") from error
