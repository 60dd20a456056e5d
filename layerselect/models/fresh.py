"""Finds the modules outside the layers that no pretraining has reached.

Such a module must be trained whole: left frozen beside LoRA, a pooler with its random start lets next to
nothing through to the classifier, and the model predicts one class whatever is selected below.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def fresh_modules(model: nn.Module, missing_keys: Sequence[str], layer_names: Sequence[str]) -> list[str]:
    """Qualified names of the fresh modules, the outermost ones where all of a module is fresh.

    A parameter is fresh if the checkpoint did not fill it. A module with a weight matrix whose bias is
    exactly zero in every entry is fresh too, though a checkpoint names it: a training step would have
    moved some of them, so the checkpoint carries the initial values along (poolers are often saved like this).

    Args:
        missing_keys: qualified names of parameters that the checkpoint lacked or had in another shape.
        layer_names: qualified names of the layers; nothing inside them is returned.
    """
    missing = set(missing_keys)
    outside = [
        (name, module)
        for name, module in model.named_modules()
        if name and not any(name == layer or name.startswith(layer + ".") for layer in layer_names)
    ]
    fresh = {
        f"{name}.{key}"
        for name, module in outside
        for key, _ in module.named_parameters(recurse=False)
        if f"{name}.{key}" in missing or _zero_bias(module)
    }
    found: list[str] = []
    for name, module in outside:
        parameters = [f"{name}.{key}" for key, _ in module.named_parameters()]
        whole = bool(parameters) and all(p in fresh for p in parameters)
        if whole and not any(name.startswith(parent + ".") for parent in found):
            found.append(name)
    return found


def wake(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Scales the weight matrices of never-trained modules up to entries of about ``1 / sqrt(inputs)``.

    A pooler whose initial values are much smaller gives nearly the same output for every input, and training idles
    for as long as that lasts. Only matrices at less than half of that size are touched, and only square ones: a
    classifier starts small on purpose, so that its first predictions are even.

    Args:
        names: of the fresh modules; matrices without a bias, or with another bias than zero, stay as they are.

    Returns:
        The names of the matrices that were scaled.
    """
    woken = []
    for name in names:
        for path, module in model.get_submodule(name).named_modules():
            if not _zero_bias(module) or module.weight.shape[0] != module.weight.shape[1]:
                continue
            size = float(module.weight.detach().square().mean().sqrt())
            target = module.weight.shape[1] ** -0.5
            if 0 < size < 0.5 * target:
                with torch.no_grad():
                    module.weight.mul_(target / size)
                woken.append(f"{name}.{path}.weight" if path else f"{name}.weight")
    return woken


def in_full_precision(model: nn.Module, names: Sequence[str]) -> None:
    """Holds the fresh modules in float32, in which they train.

    Not those with embeddings in them: whatever comes out of these goes through all layers, whose norms want their own
    type. A checkpoint without embeddings is nobody's; the demo's model has fresh ones.
    """
    for name in names:
        module = model.get_submodule(name)
        if not any(isinstance(part, nn.Embedding) for part in module.modules()):
            module.float()


def _zero_bias(module: nn.Module) -> bool:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, torch.Tensor) or not isinstance(bias, torch.Tensor) or weight.dim() != 2:
        return False
    return not bool(bias.detach().any())
