"""The ``adapter`` folder of a run: weights, tokenizer, and what using them again needs to know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, TaskType, get_peft_model_state_dict
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..utils.saved_files import DamagedFile, open_tensors, read_json
from ..utils.saved_schema import Fields, Mapped, Maybe, Mismatch, Text, Whole, check
from ..utils.saved_words import in_words, shown
from .adapter_files import BASE, META, SCHEMA, SETTINGS, WEIGHTS, SavedAdapter, peft_settings
from .adapters import ADAPTERS
from .demo import SOURCE as DEMO
from .holding import DTYPES, QUANTIZED, Holding, check_holding, holding_of, resolve_dtype
from .load import LoadedModel, model_identity
from .plain_base import lasting_reference, settle_for_peft
from .running import base_of
from .vocabulary import embedding_rows, grow

#: Of an embedding; the largest vocabularies have a sixtieth of it.
_MOST_ROWS = 2**24
_META = Fields(
    {"adapter": Text(of=ADAPTERS), "base_model": Text(), "identity": Mapped()},
    optional={
        "fingerprint": Maybe(Text()),
        "embedding_rows": Maybe(Whole(1, _MOST_ROWS)),
        "dtype": Text(of=DTYPES[1:]),
        "quantize": Text(of=QUANTIZED),
    },
)


def save_adapted(
    folder: Path,
    model: nn.Module,
    tokenizer: Any,
    *,
    task: str,
    base_model: str,
    kind: str,
    fingerprint: str,
    more: Mapping[str, Any],
) -> None:
    """Writes weights (safetensors), tokenizer and ``layerselect.json``.

    Args:
        task: what the adapter does, ``intent`` or ``revise``.
        base_model: the folder or hub id of the model under the adapter; ``""`` if it lies in ``folder/base``.
        kind: of the adapter; ``none``: the weights are those of the whole model.
        fingerprint: of the base model's layers, see :func:`layerselect.transfer.base_fingerprint`.
        more: what the task adds to ``layerselect.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = {"save_embedding_layers": False} if kind != "none" else {}
    model.save_pretrained(folder, **options)
    (folder / "README.md").unlink(missing_ok=True)  # peft's model card is a form that nobody filled in
    if kind != "none":
        settle_for_peft(folder, base_of(model), base_model)
    tokenizer.save_pretrained(folder)
    holding = holding_of(base_of(model))
    meta = {
        "schema": SCHEMA,
        "task": task,
        "adapter": kind,
        "base_model": lasting_reference(base_model, folder),
        "identity": model_identity(base_of(model)),
        "embedding_rows": embedding_rows(base_of(model)),
        "fingerprint": fingerprint,
        "dtype": holding.dtype,
        "quantize": holding.quantize,
        **more,
    }
    (folder / META).write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_meta(path: Path, task: str, kind: Fields, *, command: str) -> dict[str, Any]:
    """The content of an adapter's ``layerselect.json``.

    Args:
        task: what the adapter must do.
        kind: what the task added to it.
        command: what makes such adapters, for the message.

    Raises:
        LayerSelectError: it is damaged, or the adapter is of another task or version.
    """
    file = path / META
    meta = read_json(file, Mapped(), advice="train again")
    if meta.get("schema") != SCHEMA:
        raise LayerSelectError(f"{str(file)!r} is of another version of layerselect: train again")
    if meta.get("task") != task:
        raise LayerSelectError(
            f"the adapter {str(path)!r} was trained for the task {shown(meta.get('task'))}, not {task!r}: pass one "
            f"that '{command}' made"
        )
    try:
        check(_META, meta)
        check(kind, meta)
    except Mismatch as error:
        raise DamagedFile(file, str(error), "train again") from error
    return meta


def holding_for(
    path: Path, meta: Mapping[str, Any], *, device: str, dtype: str | None = None, quantize: str | None = None
) -> Holding:
    """How the model under an adapter is held when it is used.

    Args:
        meta: of :func:`read_meta`.
        dtype, quantize: see :class:`~layerselect.models.holding.Holding`; ``None``: as it was trained.

    Raises:
        LayerSelectError: the machine cannot hold a model so.
    """
    found = Holding(
        resolve_dtype(dtype or meta.get("dtype", "float32"), device),
        quantize or meta.get("quantize", "none"),
        device=device,
    )
    try:
        check_holding(found)
    except LayerSelectError as error:
        if dtype is not None and quantize is not None:
            raise
        raise LayerSelectError(f"{str(path)!r} was trained with other means than this machine has: {error}") from error
    return found


def load_adapted(
    path: Path, meta: Mapping[str, Any], load: Callable[[str | Path], LoadedModel], *, model: str | Path | None = None
) -> nn.Module:
    """The trained model: the base model with its adapter, or the whole model that was saved.

    Args:
        load: loads a base model from a folder or a hub id.
        model: where the base model lies now, if it has moved.

    Raises:
        LayerSelectError: the base model is missing or another one, or the adapter is damaged.
    """
    if meta["adapter"] == "none":
        if model is not None:
            raise LayerSelectError(f"{str(path)!r} holds a whole model and takes no other: leave --model out")
        files = SavedAdapter(path)  # looks at their index before transformers follows it
        whole = load(path).model
        _check_whole(whole, files)
        return whole
    base = model if model is not None else (meta["base_model"] or path / BASE)
    try:
        loaded = load(base)
    except LayerSelectError as error:
        raise LayerSelectError(
            f"the model under the adapter {str(path)!r} cannot be loaded ({error}): give its place with --model"
        ) from error
    # The corpus may have held tokens that the base model has no embeddings for.
    if isinstance(rows := meta.get("embedding_rows"), int):
        grow(loaded.model, rows, loaded.source)
    if (identity := model_identity(loaded.model)) != meta["identity"]:
        raise LayerSelectError(
            f"the adapter {str(path)!r} was trained on another model: {_difference(meta['identity'], identity)}; "
            "give the right one with --model"
        )
    shapes = _read_shapes(path)
    try:
        adapted = PeftModel.from_pretrained(loaded.model, str(path), config=_as_trained(path))
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    except Exception as error:  # whatever a library does with settings and tensors that nobody meant
        text = " ".join(str(error).split())[:200]
        raise LayerSelectError(
            f"the adapter {str(path)!r} does not fit its model ({type(error).__name__}: {text}): train again"
        ) from error
    # peft leaves what the file lacks at its random start, and says so in a warning.
    lacking = next((key for key, value in expected.items() if shapes.get(key) != tuple(value.shape)), None)
    if lacking is not None:
        raise DamagedFile(path / WEIGHTS, f"it holds no {shown(lacking)} of the model's size", "train again")
    put_back(path, expected)
    return adapted


def _as_trained(path: Path) -> PeftConfig:
    """The settings of an adapter as the training had them: it names its heads itself, and does without those that
    ``peft`` adds for a classifier.
    """
    config = PeftConfig.from_pretrained(str(path))
    if config.task_type == TaskType.SEQ_CLS:
        config.task_type = None
    return config


@torch.no_grad()
def put_back(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Sees to it that an adapter's tensors are what the file holds. For some families ``peft`` renames the weights of a
    file as it would those of an older release, finds no place for them, and leaves the random start there.
    """
    with open_tensors(path / WEIGHTS, advice="train again") as content:
        for key, value in tensors.items():
            saved = content.get_tensor(key)
            if not torch.equal(value.cpu(), saved.to(value.dtype)):
                value.copy_(saved)


def _check_whole(model: nn.Module, saved: SavedAdapter) -> None:
    """Whether all of a model that was saved whole came from its files: ``transformers`` begins at random what they
    lack.

    Raises:
        LayerSelectError: something did not.
    """
    if holding_of(model).quantize != "none":  # what was loaded is packed by now
        return
    state = model.state_dict()
    if not set(saved.shapes) <= set(state):  # transformers wrote it under other names than it uses
        return
    there = {state[key].data_ptr() for key in saved.shapes}
    for key, value in state.items():
        is_tied = value.data_ptr() in there  # saved once, under its other name
        if saved.shapes.get(key, tuple(value.shape) if is_tied else None) != tuple(value.shape):
            raise saved.damaged(f"its files hold no {shown(key)} of the model's size")


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that ``peft`` is about to read; its settings fit them.

    Raises:
        LayerSelectError: a file is missing or damaged.
    """
    with open_tensors(path / WEIGHTS, advice="train again") as content:
        names = content.keys()  # it is no dict
        shapes = {name: tuple(content.get_slice(name).get_shape()) for name in names}
    read_json(path / SETTINGS, peft_settings(shapes.values()), advice="train again")
    return shapes


def base_reference(model: str) -> str:
    """How an adapter names its base model, given the run's setting: the whole path of a folder, a hub id, or "" for the
    demo's model, which lies in the adapter's own folder.
    """
    if model == DEMO:
        return ""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def _difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    for key in expected:
        if expected[key] != found.get(key):
            return f"{in_words(key)} is {shown(found.get(key))} here and was {shown(expected[key])}"
    return f"its configuration has {sorted(set(found) - set(expected))} besides"
