"""The files of a trained predictor: what was trained, and its tensors, read from safetensors files only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import LayerSelectError
from ..utils.saved_files import DamagedFile, inside, open_tensors, read_json
from ..utils.saved_schema import Fields, Flag, Items, Kind, Mapped, Maybe, Mismatch, Names, Number, Text, Whole, check
from ..utils.saved_words import in_words, shown
from ..utils.user_paths import user_path

#: The folder in that of a run.
ADAPTER = "adapter"
#: Inside the adapter's folder: the model it was trained on, for those who load it without this package; all of that
#: model where it exists nowhere else.
BASE = "base"
META = "layerselect.json"
SCHEMA = 1
#: As ``peft`` names its files.
SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_MODEL_WEIGHTS = "model.safetensors"
_MODEL_INDEX = "model.safetensors.index.json"
_ADVICE = "train it again"


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
        return self._read_json(SETTINGS, peft_settings(self.shapes.values()))

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
        from .adapters import ADAPTERS  # loads peft and transformers

        meta = self._read_json(META, Mapped())
        if meta.get("schema") != SCHEMA:
            raise LayerSelectError(
                f"{str(self.path / META)!r} has schema {shown(meta.get('schema'))} and this version reads {SCHEMA}: "
                "train the predictor again"
            )
        kind = Fields({"adapter": Text(of=ADAPTERS), "identity": Mapped()}, optional={"fingerprint": Maybe(Text())})
        try:
            check(kind, meta)
        except Mismatch as error:
            raise self.damaged(f"{META}: {error}") from error
        return meta

    def _weight_files(self) -> list[Path]:
        if self.kind != "none":
            return [self.path / WEIGHTS]
        if not (self.path / _MODEL_INDEX).is_file():
            return [self.path / _MODEL_WEIGHTS]
        index = self._read_json(_MODEL_INDEX, Fields({"weight_map": Mapped(Text(least=1))}))
        names = sorted(set(index["weight_map"].values()))
        if not names:
            raise self.damaged(f"{_MODEL_INDEX} names no files")
        try:
            return [inside(self.path, name, source=self.path / _MODEL_INDEX, advice=_ADVICE) for name in names]
        except DamagedFile as error:
            raise self.damaged(f"{_MODEL_INDEX}: {error.why}") from error

    def _opened(self, file: Path) -> Any:
        try:
            return open_tensors(file, advice=_ADVICE)
        except DamagedFile as error:
            if error.missing:
                raise self.damaged(f"{in_words(file.name)} is missing, and other formats are not read") from error
            raise self.damaged(f"{in_words(file.name)} cannot be read: {error.why}") from error

    def _read_json(self, name: str, kind: Kind) -> Any:
        try:
            return read_json(self.path / name, kind, advice=_ADVICE)
        except DamagedFile as error:
            why = f"{name} is missing" if error.missing else f"{name} cannot be read: {error.why}"
            raise self.damaged(why) from error


def find_adapter(folder: str | Path) -> Path:
    """The adapter's folder, given itself or the folder of its run.

    Raises:
        LayerSelectError: there is none.
    """
    place = user_path(folder, "the folder of the adapter")
    for path in (place, place / ADAPTER):
        if (path / META).is_file():
            return path
    if not place.is_dir():
        raise LayerSelectError(f"there is no folder {str(place)!r}: pass the --out folder of a finished run")
    raise LayerSelectError(
        f"{str(place)!r} holds no adapter of layerselect ({META} is missing): pass the --out folder of a run"
    )


def peft_settings(shapes: Iterable[tuple[int, ...]]) -> Fields:
    """What an ``adapter_config.json`` must hold. ``peft`` allocates what it says before it looks at the weights, so
    no size in it may be larger than all of theirs.

    Args:
        shapes: of the adapter's tensors.
    """
    size = Whole(low=1, high=max((side for shape in shapes for side in shape), default=1))
    names = Maybe(Names())
    return Fields(
        {"peft_type": Text(least=1)},
        optional={
            "r": size,
            "size": size,
            "rank_pattern": Maybe(Mapped(size)),
            "lora_alpha": Number(0, 1e9),
            "alpha_pattern": Maybe(Mapped(Number(0, 1e9))),
            "lora_dropout": Number(0, 1),
            "dropout": Number(0, 1),
            "target_modules": names,
            "exclude_modules": names,
            "modules_to_save": Maybe(Items(Text(least=1))),
            "task_type": Maybe(Text()),
            "auto_mapping": Maybe(Mapped()),
            "base_model_name_or_path": Maybe(Text()),
            "use_dora": Flag(),
            "use_rslora": Flag(),
            "fan_in_fan_out": Flag(),
            "inference_mode": Flag(),
        },
    )
