"""Which linear maps of which layer are watched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..layers.find import LayerSpec, clean_name, split_parameters
from ..layers.model_hooks import ModelHook
from ..layers.requires_grad import asking_gradient
from ..utils.linear_kind import is_linear
from .frozen import all_trainable


@dataclass(frozen=True)
class LinearMap:
    """A linear map inside a layer: x -> W'x + b, with ``inputs`` numbers in x and ``outputs`` numbers out.

    Attributes:
        layer: the index of its layer.
        name: qualified name in the model.
    """

    layer: int
    name: str
    module: nn.Module
    inputs: int
    outputs: int


@dataclass(frozen=True)
class WatchedLayers:
    """The layers of a model, in forward order, and the linear maps of each."""

    names: list[str]
    modules: list[nn.Module]
    maps: list[list[LinearMap]]


def find_maps(model: nn.Module, layers: LayerSpec = None, targets: str | None = None) -> WatchedLayers:
    r"""The layers of ``model`` and the linear maps in them that an adapter could be put on.

    Nothing needs to be trainable. In a model that ``peft`` has wrapped, the maps under its adapters count, the adapters
    do not.

    Args:
        layers: as for :class:`~layerselect.FastSelector`.
        targets: a regular expression for the names of the maps inside their layer (``"self_attn\.(q|v)_proj"``);
            ``None`` takes all of them.

    Raises:
        LayerSelectError: no layers are found, ``targets`` is no regular expression, or a layer holds no map that it
            names.
    """
    with all_trainable(model):
        found = split_parameters(model, layers)
    pattern = _pattern(targets)
    names = {id(module): clean_name(name) for name, module in model.named_modules()}
    seen: set[int] = set()
    maps: list[list[LinearMap]] = []
    for layer, block in enumerate(found.modules):
        own = []
        for name, module in _linear_maps(block):
            if id(module) in seen or (pattern is not None and not pattern.fullmatch(name)):
                continue  # a map that two layers share belongs to the first
            seen.add(id(module))
            inputs, outputs = _sizes(module)
            own.append(LinearMap(layer, names[id(module)], module, inputs, outputs))
        if not own:
            wanted = "linear map" if targets is None else f"linear map that targets={targets!r} names"
            inside = ", ".join(name for name, _ in _linear_maps(block)) or "none"
            raise LayerSelectError(
                f"the layer {found.names[layer]!r} holds no {wanted}; its linear maps are: {inside}. Choose other "
                "layers or targets"
            )
        maps.append(own)
    return WatchedLayers(found.names, found.modules, maps)


def _linear_maps(block: nn.Module) -> Sequence[tuple[str, nn.Module]]:
    """Names inside the block and modules. Of what is wrapped by an adapter, only what the adapter wraps."""
    found: list[tuple[str, nn.Module]] = []

    def walk(name: str, module: nn.Module) -> None:
        if is_linear(module):
            found.append((name, module))
            return
        wrapped = getattr(module, "base_layer", None)
        children = [("", wrapped)] if isinstance(wrapped, nn.Module) else list(module.named_children())
        for key, child in children:
            walk(".".join(part for part in (name, key) if part), child)

    walk("", block)
    return found


def _sizes(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    weight = module.weight  # of the Conv1D of transformers
    assert isinstance(weight, Tensor)
    return weight.shape[0], weight.shape[1]


def _pattern(targets: str | None) -> re.Pattern[str] | None:
    if targets is None:
        return None
    try:
        return re.compile(targets)
    except re.error as error:
        raise LayerSelectError(f"targets={targets!r} is not a regular expression: {error}") from error


@contextmanager
def hooked(maps: Sequence[LinearMap], hook: Callable[..., Any]) -> Iterator[None]:
    """Inside the block, ``hook(index, module, args, output)`` is called after each forward pass of a map; what it
    returns, unless that is ``None``, takes the output's place.
    """
    hooks = [ModelHook(partial(hook, index)) for index in range(len(maps))]
    handles = [linear.module.register_forward_hook(own) for linear, own in zip(maps, hooks, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def gradients_from(maps: Sequence[LinearMap]) -> Iterator[None]:
    """In a frozen model, autograd begins at the outputs of ``maps``.

    What needs no gradient yet becomes a copy of a leaf that does: some architectures work in place on it, which a leaf
    does not allow. So the graph begins at the lowest watched map, and no weight gradient is computed anywhere.
    """
    with hooked(maps, _begin_here):
        yield


def _begin_here(index: int, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    if output.requires_grad:
        return output
    leaf = asking_gradient(output)
    return leaf.clone() if torch.is_grad_enabled() else leaf
