"""What layers and maps are worth by what a selector has measured, and the ranks that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from ..layers.ranks import Ranks, lora_maps, rank_pattern
from ..utils.arguments import check_choice
from .readings import Readings

BY = ("scores", "frequency", "maps")


def ranks_of(
    selector: Readings, layers: Sequence[tuple[str, nn.Module]], budget: float, *, by: str, most: int | None
) -> Ranks:
    """See :meth:`layerselect.FastSelector.rank_pattern`.

    Args:
        selector: what was measured.
        layers: qualified name and block of each layer.
    """
    check_choice("by", by, BY)
    maps = lora_maps(layers)
    if by == "frequency":
        of_layer = [float(each) for each in selector.frequency.tolist()]
    else:
        of_layer = mean_scores(selector.history.arrays())
    worth = [of_layer[each.layer] for each in maps]
    if by == "maps":
        shares = _shares(selector.scores_by_map(), selector.scores)
        worth = [
            value * shares.get(each.inside, {}).get(each.layer, 0.0) for each, value in zip(maps, worth, strict=True)
        ]
    return rank_pattern(maps, worth, budget, most=most)


def mean_scores(rows: Mapping[str, np.ndarray]) -> list[float]:
    """The mean score of each layer over the recorded steps in which it took a gradient; 0 where there is none.

    Args:
        rows: of ``selector.history.arrays()``.
    """
    counts = rows["trained"] & np.isfinite(rows["scores"])
    sums = np.where(counts, rows["scores"], 0.0).sum(axis=0, dtype=np.float64)
    means: list[float] = (sums / np.maximum(1, counts.sum(axis=0))).tolist()
    return means


def _shares(by_map: Mapping[str, Tensor], scores: Tensor) -> dict[str, dict[int, float]]:
    """By map and layer, the map's score as a fraction of its layer's; without what is not known."""
    whole = scores.tolist()
    return {
        name: {
            layer: value / whole[layer] for layer, value in enumerate(values.tolist()) if value > 0 and whole[layer] > 0
        }
        for name, values in by_map.items()
    }
