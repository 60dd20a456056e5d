"""Scores by map: what the scores of the layers consist of, from sums of squares that every step has anyway."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers.find import LayeredParameters, clean_name
from ..utils.linear_kind import is_linear

#: What modules of peft hold the one that they stand around as.
_WRAPPED = ("base_layer", "original_module")


def map_names(found: LayeredParameters) -> list[str]:
    """The map inside its layer that each trainable parameter belongs to, in the order of ``found.layers``.

    A map is the module that holds the parameter; what an adapter adds belongs to the map that it is put on.
    """
    names = []
    for block, layer in zip(found.modules, found.layers, strict=True):
        inside = {id(parameter): name for name, parameter in block.named_parameters(remove_duplicate=False)}
        names += [_map_of(block, inside.get(id(parameter), name)) for name, parameter in layer]
    return names


def scores_by_map(found: LayeredParameters, scores: Tensor, sums: Tensor, form: str) -> dict[str, Tensor]:
    """See :meth:`layerselect.FastSelector.scores_by_map`.

    Args:
        found: the layers.
        scores: float32 [L], of the layers.
        sums: float64 [P], the sum of squares of each parameter's last gradient, up to a factor for each layer; on any
            device. Outer parameters come last.
        form: of the scores (:mod:`layerselect.core.scores`).
    """
    device, length = scores.device, len(found.layers)
    names = map_names(found)
    maps = {name: number for number, name in enumerate(dict.fromkeys(names))}
    groups = [layer for layer, parameters in enumerate(found.layers) for _ in parameters]
    # One row for each map, one column for each layer.
    places = torch.tensor([maps[name] * length + layer for name, layer in zip(names, groups, strict=True)])
    sizes = torch.tensor([p.numel() for layer in found.layers for _, p in layer], dtype=torch.float64)
    shape = (len(maps), length)
    places = places.to(device)

    def added(values: Tensor) -> Tensor:
        table = torch.zeros(len(maps) * length, dtype=torch.float64, device=device)
        return table.index_add_(0, places, values.to(device)).view(shape)

    squares = sums[: len(names)].to(device).clamp_min(0)
    parts = added(squares.pow(0.25) if form == "sqrt_sum" else squares)
    whole = parts.sum(dim=0)
    # Nothing is known of a score that a state brought along; a score of 0 consists of nothing.
    shares = parts / whole.masked_fill((whole == 0) & (scores == 0), 1.0)
    elements = added(sizes)
    if form == "rms":
        shares = shares * elements.sum(dim=0) / elements
    values = (scores.double() * shares.sqrt()).masked_fill(elements == 0, float("nan")).float()
    return dict(zip(maps, values, strict=True))


def _map_of(block: nn.Module, name: str) -> str:
    """The name inside ``block`` of the map that the parameter called ``name`` belongs to."""
    *path, last = name.split(".")
    module, kept = block, []
    for part in path:
        if is_linear(module) or any(isinstance(getattr(module, each, None), nn.Module) for each in _WRAPPED):
            break
        module = getattr(module, part)
        kept.append(part)
    return clean_name(".".join(kept)) or last
