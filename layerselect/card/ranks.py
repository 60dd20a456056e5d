"""Ranks of LoRA by map from the figures of a Layer Card."""

from __future__ import annotations

from collections.abc import Sequence

from ..layers.ranks import LoraMap, Ranks, rank_pattern, without_adapter
from .figures import LayerFigures


def ranks_of(layers: Sequence[LayerFigures], strengths: Sequence[float], budget: float, *, most: int | None) -> Ranks:
    """See :meth:`layerselect.card.LayerCard.rank_pattern`."""
    maps, worth = [], []
    for number, layer in enumerate(layers):
        for linear in layer.maps:
            whole = linear.name.removesuffix(".base_layer")  # under an adapter
            inside, name = whole.removeprefix(layer.name + "."), without_adapter(whole)
            maps.append(LoraMap(name, number, inside, linear.inputs, linear.outputs))
            share = linear.resnorm / layer.resnorm if layer.resnorm > 0 else 0.0
            worth.append(max(0.0, strengths[number]) * max(0.0, share))
    return rank_pattern(maps, worth, budget, most=most)
