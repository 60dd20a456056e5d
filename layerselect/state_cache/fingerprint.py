"""What tells the layers below a cut apart from all others, in this run and in later ones: a hash of all that they
compute with.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .below import NOT_OF_LAYERS, Below, simple_attributes

#: Of an adapter, the part that starts at zero, by the part in front of it: while it is zero, the adapter adds nothing.
_ADDS_NOTHING_WHILE_ZERO = {
    "lora_A": "lora_B",
    "lora_embedding_A": "lora_embedding_B",
    "bottleneck_down": "bottleneck_up",
}
#: How an adapter was made, and how it is switched; what it comes to is in its scaling and its tensors.
_HOW_MADE = {
    "r",
    "lora_alpha",
    "use_rslora",
    "kwargs",
    "merged_adapters",
    "_active_adapter",
    "_disable_adapters",
    "_caches",
}


def fingerprint(below: Below, facts: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal digits, over every number of every tensor, the kinds and attributes of the modules, the
    configuration of the model and ``facts``.

    Adapters that add nothing do not count: those that are disabled, inactive, or still as they start. With and without
    them the layers are the base model.
    """
    digest = hashlib.sha256()
    configs = [_without_the_rest(config.to_dict()) for config in below.configs]
    distinct = list({json.dumps(config, sort_keys=True, default=str): None for config in configs})
    digest.update(json.dumps([distinct, facts], sort_keys=True, default=str).encode())
    adapters = {
        id(part)
        for _, module in below.parts
        if is_adapted(module)
        for held in _by_adapter(module).values()
        for part in held.modules()
    }
    for name, module in below.parts:
        if id(module) in adapters:
            continue
        # An adapted module is called as the one that it stands in the place of.
        name = ".".join(part for part in name.split(".") if part != "base_layer")
        if is_adapted(module):
            _add_adapters(digest, name, module)
        else:
            _add_module(digest, name, module)
    for module in below.containers:
        if not configs:  # nothing else says how they call their blocks
            _add_module(digest, "around", module)
            continue
        for name, tensor in own_tensors(module):
            _add_tensor(digest, name, tensor)
    return digest.hexdigest()


def is_adapted(module: nn.Module) -> bool:
    """Whether it is what ``peft`` puts in the place of a module: the module itself, and adapters by name."""
    return "base_layer" in module._modules and hasattr(module, "active_adapters") and hasattr(module, "merged_adapters")


def speaking_adapters(module: Any) -> list[str]:
    """The adapters of an adapted module that its output depends on, in their order."""
    if module.disable_adapters or module.merged_adapters:
        return []
    held = _by_adapter(module)
    return [
        name
        for name in module.active_adapters
        if any(name in adapters for adapters in held.values()) and not _adds_nothing(held, name)
    ]


def own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a module itself holds, each with its name: parameters, buffers and plain attributes."""
    # By name: what is taken out in a pass and put back (experts that peft parametrises) is the last one then.
    for own in (module._parameters, module._buffers):
        for name in sorted(own):
            if (tensor := own[name]) is not None:
                yield name, tensor
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield name, value


def _add_module(digest: Any, name: str, module: nn.Module) -> None:
    if isinstance(module, (nn.Dropout, nn.Identity)):
        return
    kind = type(module)
    digest.update(f"{name}: {kind.__module__}.{kind.__qualname__} {_text(kind.forward)}".encode())
    for attribute, value in sorted(simple_attributes(module)):
        digest.update(f"{attribute}={_text(value)};".encode())
    for attribute, tensor in own_tensors(module):
        _add_tensor(digest, attribute, tensor)
    scales = _scales_of_8bit(module)
    if scales is not None:
        _add_tensor(digest, "scales", scales)


def _scales_of_8bit(module: nn.Module) -> Tensor | None:
    """What the numbers of a map that ``bitsandbytes`` holds in 8 bits are multiplied by. They are with the weight until
    the first pass, and in the module's state afterwards.
    """
    holders = (getattr(module, "state", None), module._parameters.get("weight"))
    found = [scales for holder in holders if isinstance(scales := getattr(holder, "SCB", None), Tensor)]
    return found[0] if found else None


def _add_adapters(digest: Any, name: str, module: nn.Module) -> None:
    speaking = speaking_adapters(module)
    if not speaking:
        return
    kind = type(module)
    digest.update(f"{name}: {kind.__module__}.{kind.__qualname__} {_text(kind.forward)}".encode())
    for attribute, value in sorted(simple_attributes(module)):
        if attribute in _HOW_MADE:
            continue
        if isinstance(value, dict):
            value = [value.get(adapter) for adapter in speaking]
        digest.update(f"{attribute}={_text(value)};".encode())
    for attribute, tensor in own_tensors(module):
        _add_tensor(digest, attribute, tensor)
    held = _by_adapter(module)
    for attribute, adapters in held.items():
        for number, adapter in enumerate(speaking):
            if adapter not in adapters or "dropout" in attribute or attribute in _silent_parts(held, adapter):
                continue
            part = adapters[adapter]
            if isinstance(part, Tensor):
                _add_tensor(digest, f"{number}.{attribute}", part)
            else:
                for inner, submodule in part.named_modules(prefix=f"{number}.{attribute}"):
                    _add_module(digest, inner, submodule)


def _by_adapter(module: nn.Module) -> dict[str, Any]:
    """The parts of an adapted module that hold something for each adapter."""
    return {
        attribute: child
        for attribute, child in module._modules.items()
        if attribute != "base_layer" and hasattr(child, "keys") and hasattr(child, "__contains__")
    }


def _adds_nothing(held: Mapping[str, Any], adapter: str) -> bool:
    # What scales the weights that are there (DoRA) changes them, to rounding at least.
    return bool(_silent_parts(held, adapter)) and adapter not in held.get("lora_magnitude_vector", ())


def _silent_parts(held: Mapping[str, Any], adapter: str) -> set[str]:
    """The parts of an adapter that come to nothing while it is as it starts; none if it has learned."""
    pairs = [pair for pair in _ADDS_NOTHING_WHILE_ZERO.items() if all(adapter in held.get(part, ()) for part in pair)]
    learned = any(bool(t.any()) for _, last in pairs for t in _tensors(held[last][adapter]))
    return set() if learned else {part for pair in pairs for part in pair}


def _tensors(part: Any) -> list[Tensor]:
    return [part] if isinstance(part, Tensor) else [*part.parameters(), *part.buffers()]


def _add_tensor(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
    digest.update(_bytes(tensor))
    # What quantized numbers are multiplied by.
    state = getattr(tensor, "quant_state", None)
    for inner, value in sorted(vars(state).items()) if hasattr(state, "__dict__") else ():
        if isinstance(value, Tensor):
            digest.update(f"{inner}\n".encode())
            digest.update(_bytes(value))


def _text(value: Any) -> str:
    """The same text in every process, for the same value."""
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None), torch.dtype)):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{_text(k)}:{_text(v)}" for k, v in value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, (set, frozenset)):
        return "{" + ",".join(sorted(map(_text, value))) + "}"
    if isinstance(value, functools.partial):
        return f"partial({_text(value.func)},{_text(value.args)},{_text(value.keywords)})"
    if isinstance(value, nn.Module):
        return f"{type(value).__qualname__}({value.extra_repr()})"
    if isinstance(value, (torch.device, torch.Size)):
        return "" if isinstance(value, torch.device) else repr(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', '')}.{named.__qualname__}"


def _without_the_rest(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    kept = {name: value for name, value in values.items() if name not in NOT_OF_LAYERS and "dropout" not in name}
    return {str(name): _without_the_rest(value) for name, value in kept.items()}


def _bytes(tensor: Tensor) -> Any:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""
