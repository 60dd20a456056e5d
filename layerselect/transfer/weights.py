"""Copies a predictor's adapter weights, layer by layer, into a generator of the same base model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..layers.find import split_parameters
from ..models.adapter_files import SavedAdapter
from ..utils.saved_words import in_words, shown

_SAMPLES = 4096

#: What of an adapter's configuration says what its weights mean; the dropout in front of it may differ.
_LORA = {
    "r": "rank",
    "lora_alpha": "alpha",
    "use_dora": "use_dora",
    "use_rslora": "use_rslora",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
}
_BOTTLENECK = {"size": "size", "placement": "placement", "activation": "activation"}


@dataclass(frozen=True)
class Transfer:
    """What was copied: from which layers, how many tensors, and how many numbers these hold."""

    layers: list[int]
    tensors: int
    parameters: int


def transfer_adapter(
    model: nn.Module, predictor: str | Path, layers: Sequence[int], *, base_fingerprint: str | None = None
) -> Transfer:
    """Starts layers of a generator as a predictor of intentions ended: its adapter weights are copied bit for bit.

    The other layers, and what lies outside the layers (heads, ``modules_to_save``), stay as they are. Weights are
    matched by the number of the layer and by their name inside it, so the models may have other heads and other names
    around their layers.

    Args:
        model: what :func:`layerselect.models.adapters.add_adapter` returned for the generator, before a selector
            freezes layers of it: a ``PeftModel``, or for the adapter ``none`` the model whose layers train whole.
        predictor: the folder of the predictor's run, or its ``adapter`` folder. Only safetensors files are read.
        layers: numbers of the layers, see :func:`layerselect.transfer.pick_layers`.
        base_fingerprint: :func:`base_fingerprint` of the generator's base model; compared where the predictor has saved
            its own as ``fingerprint`` in ``layerselect.json``.

    Raises:
        LayerSelectError: there is no adapter or it is damaged; or the two do not fit: another base model, adapter,
            rank, alpha, size or placement, other target modules, shapes or layers. Nothing was written then.
    """
    saved = SavedAdapter(predictor)
    _check_base(model, saved, base_fingerprint)
    _check_settings(model, saved)
    own = _own_tensors(model)
    keys = _matched(saved, list(own))
    targets = list(own.values())
    chosen = _checked_layers(layers, len(targets))
    for number, (here, there) in enumerate(zip(targets, keys, strict=True)):
        _check_tensors(saved, number, here, there)
    places = [(number, name) for number in chosen for name in targets[number]]
    values = saved.load(keys[number][name] for number, name in places)
    pairs = [(targets[number][name], values[keys[number][name]]) for number, name in places]
    for (number, name), (target, value) in zip(places, pairs, strict=True):
        if value.dtype != target.dtype:  # converted, it would not be what the predictor ended with
            raise _unlike(saved, f"the type of {name} in layer {number}", str(value.dtype), str(target.dtype))
    # Whatever could be wrong has shown by now.
    with torch.no_grad():
        for target, value in pairs:
            target.copy_(value)
    return Transfer(chosen, len(pairs), sum(target.numel() for target, _ in pairs))


def base_fingerprint(model: nn.Module, layer_names: Sequence[str]) -> str:
    """Tells two checkpoints of one architecture apart, at the cost of a look at some of the weights.

    It is the SHA-256 over number of the layer, name inside the layer, shape, type and up to 4,096 evenly spaced
    elements of every parameter of the layers. So it does not depend on what stands around the layers: a classifier and
    a causal language model of one checkpoint, loaded in one type, have the same.

    Args:
        model: a base model, before adapters are added.
        layer_names: qualified names of its layers, in forward order.

    Raises:
        LayerSelectError: the model has adapters in its layers already, or no parameters there.
    """
    digest = hashlib.sha256()
    seen = 0
    for number, layer in enumerate(layer_names):
        block = model.get_submodule(layer)
        if any(hasattr(module, "base_layer") for module in block.modules()):  # what peft calls the module it replaced
            raise LayerSelectError(
                f"{layer!r} of {type(model).__name__} holds an adapter: take the fingerprint of the base model "
                "before adapters are added"
            )
        for name, parameter in sorted(block.named_parameters()):
            seen += 1
            flat = parameter.detach().reshape(-1)
            count = min(_SAMPLES, flat.numel())
            places = torch.arange(count, device=flat.device) * flat.numel() // max(1, count)
            digest.update(json.dumps([number, name, list(parameter.shape), str(parameter.dtype)]).encode())
            digest.update(flat[places].cpu().view(torch.uint8).numpy().tobytes())
    if not seen:
        raise LayerSelectError(f"the layers {list(layer_names)!r} of {type(model).__name__} hold no parameter")
    return digest.hexdigest()


# ---------------------------------------------------------------------- which tensor belongs to which


def _own_tensors(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """For each layer of the generator its live tensors that an adapter's file would hold, by their name inside the
    layer.
    """
    from peft import PeftModel, get_peft_model_state_dict

    if isinstance(model, PeftModel):
        # The same that save_pretrained() writes, so that names agree by construction. The tensors share memory with the
        # model's parameters.
        state = get_peft_model_state_dict(model, adapter_name=model.active_adapter, save_embedding_layers=False)
    else:
        state = model.state_dict()
    return {layer: _inside(state, layer) for layer in split_parameters(model).names}


def _matched(saved: SavedAdapter, layers: Sequence[str]) -> list[dict[str, str]]:
    """For each layer of the generator the predictor's keys, by their name inside the layer."""
    stacks: dict[str, list[str]] = {}  # path of a container -> numbers of the layers in it
    for layer in layers:
        container, _, number = layer.rpartition(".")
        stacks.setdefault(container, []).append(number)
    found = {container: _stack(saved, container) for container in stacks}
    if len(set(found.values())) < len(found):
        raise _foreign(saved, f"the stacks {_list(found)} of the generator are one there")
    for container, numbers in stacks.items():
        pattern = re.compile(re.escape(found[container]) + r"\.(\d+)\.")
        there = {match[1] for key in saved.shapes if (match := pattern.match(key))}
        if there != set(numbers):
            raise _unlike(saved, f"the number of layers in {container!r} that train", len(there), len(numbers))
    keys = {key: key for key in saved.shapes}
    return [_inside(keys, f"{found[c]}.{number}") for c, _, number in (layer.rpartition(".") for layer in layers)]


def _stack(saved: SavedAdapter, container: str) -> str:
    """The path in the predictor's keys that has the longest end in common with that of a stack of the generator."""
    parts = container.split(".")
    for start in range(len(parts)):
        end = re.escape(".".join(parts[start:]))
        pattern = re.compile(rf"((?:.*?\.)?{end})\.\d+\.")
        found = {match[1] for key in saved.shapes if (match := pattern.match(key))}
        if len(found) == 1:
            return found.pop()
        if found:
            raise _foreign(saved, f"the generator's stack {container!r} could be any of {_list(sorted(found))} there")
    raise _foreign(saved, f"the generator has layers in {container!r}, and nothing there ends in {parts[-1]!r}")


def _inside(tensors: Mapping[str, Any], layer: str) -> dict[str, Any]:
    return {key.removeprefix(layer + "."): value for key, value in tensors.items() if key.startswith(layer + ".")}


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


# ---------------------------------------------------------------------- do they fit?


def _check_base(model: nn.Module, saved: SavedAdapter, fingerprint: str | None) -> None:
    from peft import PeftModel

    from ..models.load import model_identity

    there = saved.meta["identity"]
    here = model_identity(model.get_base_model() if isinstance(model, PeftModel) else model)
    for key in sorted({*there, *here}, key=lambda key: (key != "model_type", key)):
        if there.get(key) != here.get(key):
            raise LayerSelectError(
                f"the predictor {str(saved.path)!r} was trained on another base model: {in_words(key)} is "
                f"{shown(there.get(key))} there and {here.get(key)!r} in the generator; give both the same model"
            )
    its = saved.meta.get("fingerprint")
    if fingerprint and its and fingerprint != its and _held_alike(model, saved):
        raise LayerSelectError(
            f"the predictor {str(saved.path)!r} was trained on another checkpoint of this architecture: the "
            f"fingerprint of its base model is {str(its)[:16]} and the generator's is {fingerprint[:16]}; give both "
            "the same model"
        )


def _held_alike(model: nn.Module, saved: SavedAdapter) -> bool:
    """Whether both were trained on numbers of one kind. Of one checkpoint in other types, or quantized, the numbers
    differ, and so do the fingerprints.
    """
    from ..models.holding import holding_of
    from ..models.running import base_of

    here, there = holding_of(base_of(model)), saved.meta
    return (here.dtype, here.quantize) == (there.get("dtype", "float32"), there.get("quantize", "none"))


def _check_settings(model: nn.Module, saved: SavedAdapter) -> None:
    """Compares kind and configuration of the two adapters."""
    from peft import LoraConfig, PeftModel

    from ..models.bottleneck import BottleneckConfig

    config = model.peft_config[model.active_adapter] if isinstance(model, PeftModel) else None
    if isinstance(config, BottleneckConfig):
        kind, compared = "bottleneck" if config.placement == "serial" else "bottleneck-parallel", _BOTTLENECK
    elif isinstance(config, LoraConfig):
        kind, compared = "dora" if config.use_dora else "lora", _LORA
    elif config is None:
        kind, compared = "none", {}
    else:
        raise LayerSelectError(f"the generator's adapter is a {type(config).__name__}, which cannot be transferred")
    if saved.kind != kind:
        raise _unlike(saved, "the adapter", saved.kind, kind)
    settings = saved.settings() if compared else {}
    for key, called in compared.items():
        if settings.get(key) != getattr(config, key):
            raise _unlike(saved, f"the adapter's {called}", settings.get(key), getattr(config, key))


def _checked_layers(layers: Sequence[int], count: int) -> list[int]:
    for layer in layers:
        if not isinstance(layer, int) or isinstance(layer, bool) or not 0 <= layer < count:
            raise LayerSelectError(
                f"layer {layer!r} is to be transferred and is none of the generator's {count} layers: number them 0 "
                f"to {count - 1}"
            )
    return sorted(set(layers))


def _check_tensors(saved: SavedAdapter, number: int, here: Mapping[str, Tensor], there: Mapping[str, str]) -> None:
    """Compares names and shapes in a layer."""
    if set(here) != set(there):
        raise LayerSelectError(
            f"the adapter's target modules differ in layer {number}: only the predictor {str(saved.path)!r} has "
            f"{_some(set(there) - set(here))}, and only the generator has {_some(set(here) - set(there))}; give both "
            "the same"
        )
    for name, target in here.items():
        if saved.shapes[there[name]] != tuple(target.shape):
            raise _unlike(
                saved, f"the shape of {name} in layer {number}", saved.shapes[there[name]], tuple(target.shape)
            )


def _some(names: set[str]) -> str:
    return (", ".join(sorted(names)[:3]) or "nothing") + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _unlike(saved: SavedAdapter, what: str, there: object, here: object) -> LayerSelectError:
    return LayerSelectError(
        f"{what} is {there!r} in the predictor {str(saved.path)!r} and {here!r} in the generator: give both the same"
    )


def _foreign(saved: SavedAdapter, why: str) -> LayerSelectError:
    return LayerSelectError(
        f"the predictor {str(saved.path)!r} is of another architecture: {why}; give both models of one checkpoint"
    )
