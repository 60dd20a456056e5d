"""The base model of an adapter as ``peft`` and ``transformers`` load it by themselves.

``AutoPeftModelForSequenceClassification`` makes the base model from nothing but the reference that stands in the
adapter's settings. A checkpoint knows neither the labels of the run nor how many there are, and the saved head would
not fit. The reference therefore leads to a folder in the adapter's: the configuration of the model that was trained,
and an index of where its weights lie. Weights are copied only where the checkpoint holds some of another size.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import TaskType
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import cached_file

from ..errors import LayerSelectError
from ..utils.folders import final_place
from ..utils.saved_files import open_tensors
from .adapter_files import BASE, SETTINGS, WEIGHTS
from .folders import CONFIG, INDEX, weight_files
from .holding import holding_of

logger = logging.getLogger(__name__)

#: ``peft`` trains and expects whatever is called so in a classifier, besides what its settings name.
_HEADS = ("classifier", "score")
_PREFIX = "base_model.model."
_ADVICE = "download it again"


def settle_for_peft(folder: Path, model: nn.Module, base_model: str) -> None:
    """Completes the settings of an adapter that was just saved, so that ``peft`` needs nothing else to load it.

    Args:
        folder: of the adapter; what it refers to is named by where it will stand, see
            :func:`layerselect.utils.folders.final_place`.
        model: the adapted model, without what ``peft`` has put around it.
        base_model: a folder or hub id, or ``""`` where the whole base model lies in ``folder/base``.
    """
    file = folder / SETTINGS
    settings = json.loads(file.read_text(encoding="utf-8"))
    classifies = settings["task_type"] is None
    if classifies and _complete(folder / WEIGHTS, model, settings.get("modules_to_save") or ()):
        settings |= {"task_type": TaskType.SEQ_CLS.value, "auto_mapping": None}
    own = not base_model or _write_base(folder / BASE, model, base_model, always=classifies)
    settings["base_model_name_or_path"] = lasting_reference(str(folder.resolve() / BASE) if own else base_model, folder)
    file.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")


def lasting_reference(base_model: str, folder: Path) -> str:
    """How a folder that is being written refers to a model: by where that will stand. Hub ids stay as they are."""
    path = Path(base_model)
    return str(final_place(path, folder.resolve())) if path.is_absolute() else base_model


def _complete(file: Path, model: nn.Module, saved: Sequence[str]) -> bool:
    """Adds to the weights of an adapter the heads that ``peft`` expects of a classifier and that were not trained.

    Args:
        saved: names of modules that the file holds.

    Returns:
        Whether it holds all that is expected; it does not where modules inside the layers are called like heads.
    """
    heads = [
        name
        for name, _ in model.named_modules()
        if name.endswith(_HEADS) and not any(name.endswith(other) for other in saved)
    ]
    if any("." in name or any(other.startswith(f"{name}.") for other in saved) for name in heads):
        return False
    if heads:
        tensors = load_file(file)
        for name in heads:
            state = model.get_submodule(name).state_dict()
            tensors |= {f"{_PREFIX}{name}.{key}": value.detach().cpu().contiguous() for key, value in state.items()}
        save_file(tensors, file, metadata={"format": "pt"})
    return True


def _write_base(folder: Path, model: nn.Module, source: str, *, always: bool) -> bool:
    """Writes the folder that stands for the base model.

    Args:
        always: even where the checkpoint itself would do.

    Returns:
        Whether it was written: it was needed, and the files of the base model are there.
    """
    try:
        files = _files_of(source)
        changed = {file: _changed(file, model) for file in files}
    except (LayerSelectError, OSError) as error:
        logger.warning("peft alone cannot load the adapter: the files of its base model are away (%s)", error)
        return False
    if not always and not any(changed.values()):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    _of_checkpoint(model).save_pretrained(folder)
    places: dict[str, str] = {}
    size = 0
    for number, (file, tensors) in enumerate(changed.items()):
        place = lasting_reference(str(file), folder)
        if tensors:
            place = f"model-{number + 1:05}.safetensors"
            content = {key: value for key, value in load_file(file).items() if key not in tensors}
            content |= {key: value for key, value in tensors.items() if value is not None}
            save_file(content, folder / place, metadata={"format": "pt"})
        with open_tensors(folder / place if tensors else file, advice=_ADVICE) as content:
            places |= dict.fromkeys(content.keys(), place)
        size += (folder / place if tensors else file).stat().st_size
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return True


def _of_checkpoint(model: nn.Module) -> Any:
    """The configuration of a model without what its loading has added: the weights of the checkpoint are not quantized
    unless it says so itself.
    """
    plain: Any = copy.deepcopy(model.config)
    if holding_of(model).quantize != "none":
        del plain.quantization_config
    return plain


def _files_of(source: str) -> list[Path]:
    """The files of a model's weights, in its folder or in the cache of the hub.

    Raises:
        LayerSelectError, OSError: they are not there.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = Path(cached_file(source, CONFIG, local_files_only=True)).parent
    return weight_files(folder)


def _changed(file: Path, model: nn.Module) -> Mapping[str, torch.Tensor | None]:
    """What a file of a checkpoint holds in another size than the model: the model's value for it, or ``None`` where the
    adapter brings one.
    """
    own = {
        name.replace(".original_module", "").replace(".base_layer", ""): (".original_module" not in name, value)
        for name, value in model.state_dict().items()
        if ".modules_to_save." not in name
    }
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    changed: dict[str, torch.Tensor | None] = {}
    with open_tensors(file, advice=_ADVICE) as content:
        for key in content.keys():  # noqa: SIM118, it is no dict
            shape = tuple(content.get_slice(key).get_shape())
            found = next((own[n] for n in (key, prefix + key, key.removeprefix(prefix)) if n in own), None)
            if found is not None and tuple(found[1].shape) != shape and found[1].is_floating_point():  # not packed
                changed[key] = found[1].detach().cpu().contiguous().clone() if found[0] else None
    return changed
