"""Ranks of LoRA by map, shared out in the proportion of what maps are worth, under a budget of parameters.

A rank of a map with n inputs and m outputs takes n + m parameters. The next rank always goes to the map that is
worth the most for each rank that it has already (the highest averages of d'Hondt), so that ranks come out in
proportion to worth, and what does not fit is passed over.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..errors import LayerSelectError
from ..utils.arguments import check_whole
from ..utils.linear_kind import is_linear

_BASE = ".base_layer"
#: Alpha of a rank, so that every map's update has the same scale; and the rank that fractions of a budget are of.
_ALPHA, _RANK = 2, 16


@dataclass(frozen=True)
class LoraMap:
    """A linear map that may get an adapter: its qualified name, its layer, and its sizes."""

    name: str
    layer: int
    inside: str  #: its name inside the layer
    inputs: int
    outputs: int

    @property
    def cost(self) -> int:
        """Parameters of one rank."""
        return self.inputs + self.outputs


@dataclass(frozen=True)
class Ranks:
    """What ``peft.LoraConfig`` takes.

    Attributes:
        rank_pattern: the rank of each map that gets an adapter, by its name as a regular expression.
        alpha_pattern: twice the rank, so that all updates have the same scale.
        target_modules: the names of these maps.
        parameters: how many the adapters have together.
    """

    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, int] = field(repr=False)
    target_modules: list[str] = field(repr=False)
    parameters: int

    @classmethod
    def of(cls, ranks: Mapping[str, int], parameters: int = 0) -> Ranks:
        """From the rank of each map by its name."""
        return cls(
            {re.escape(name): rank for name, rank in ranks.items()},
            {re.escape(name): _ALPHA * rank for name, rank in ranks.items()},
            list(ranks),
            parameters,
        )

    def by_name(self) -> dict[str, int]:
        """The rank of each map by its name, which :meth:`of` takes."""
        return dict(zip(self.target_modules, self.rank_pattern.values(), strict=True))

    def lora_config(self, **options: Any) -> Any:
        """A ``peft.LoraConfig`` with these ranks.

        Args:
            options: its other arguments, such as ``task_type``.
        """
        from peft import LoraConfig

        return LoraConfig(
            **{
                "r": max(self.rank_pattern.values()),
                "target_modules": self.target_modules,
                "rank_pattern": self.rank_pattern,
                "alpha_pattern": self.alpha_pattern,
                **options,
            }
        )


def share_ranks(maps: Sequence[LoraMap], worth: Sequence[float], budget: int, *, most: int | None = None) -> Ranks:
    """Ranks in proportion to what maps are worth.

    Args:
        maps: of all layers.
        worth: of each map, at least 0; a map that is worth nothing gets no adapter.
        budget: parameters of all adapters together, at most. What is left is less than one rank of the smallest map,
            unless ``most`` stops it before.
        most: of one map; it is never higher than the smaller of the map's sizes.

    Raises:
        LayerSelectError: no map is worth anything, or the budget is too small for one rank of any.
    """
    values = [float(each) for each in worth]
    if any(not math.isfinite(each) or each < 0 for each in values):
        raise LayerSelectError(f"worth={values!r} must be a number of at least 0 for each map")
    worthy = [each for each, value in zip(maps, values, strict=True) if value > 0]
    values = [value for value in values if value > 0]
    if not worthy:
        raise LayerSelectError("nothing is worth an adapter: nothing was measured, or all scores are 0")
    cheapest = min(each.cost for each in worthy)
    if budget < cheapest:
        raise LayerSelectError(
            f"budget={budget} is too small: one rank of the smallest map takes {cheapest} parameters"
        )
    ranks = [0] * len(worthy)
    left = budget
    waiting = [(-value, number) for number, value in enumerate(values)]
    heapq.heapify(waiting)
    while waiting:
        _, number = heapq.heappop(waiting)
        each = worthy[number]
        limit = min(each.inputs, each.outputs, most or each.inputs)
        if each.cost > left or ranks[number] >= limit:
            continue  # it does not fit any more
        ranks[number] += 1
        left -= each.cost
        heapq.heappush(waiting, (-values[number] / (ranks[number] + 1), number))
    chosen = {each.name: rank for each, rank in zip(worthy, ranks, strict=True) if rank}
    return Ranks.of(chosen, budget - left)


def lora_maps(layers: Sequence[tuple[str, nn.Module]]) -> list[LoraMap]:
    """The linear maps of layers, by the names that they have without adapters. Where some have LoRA, only these.

    Args:
        layers: qualified name and block of each layer.
    """
    every: list[LoraMap] = []
    adapted: list[LoraMap] = []
    for number, (layer, block) in enumerate(layers):
        for name, module in block.named_modules():
            if not name or not is_linear(module) or ".lora_" in f".{name}":
                continue
            outputs, inputs = _sizes(module)
            inside = name.removesuffix(_BASE)
            plain = without_adapter(f"{layer}.{inside}")
            (adapted if name.endswith(_BASE) else every).append(LoraMap(plain, number, inside, inputs, outputs))
    return adapted or every


def rank_pattern(maps: Sequence[LoraMap], worth: Sequence[float], budget: float, *, most: int | None = None) -> Ranks:
    """Ranks of maps under a budget that may be a fraction (see :meth:`layerselect.FastSelector.rank_pattern`).

    Args:
        maps: of all layers.
        worth: of each.
        budget: a number of parameters, or up to 1 a fraction of those that LoRA of rank 16 on the same maps has.
        most: of one map.
    """
    if not maps:
        raise LayerSelectError("the layers hold no linear map that LoRA could go to")
    if most is not None:
        check_whole("most", most, 1)
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget < math.inf:
        raise LayerSelectError(
            f"budget={budget!r} must be a number of parameters, or a fraction of those that LoRA of rank {_RANK} has"
        )
    if budget <= 1:
        budget = budget * _RANK * sum(each.cost for each in maps)
    return share_ranks(maps, worth, int(budget), most=most)


def without_adapter(name: str) -> str:
    """The name of a module as the model has it that ``peft`` has not wrapped."""
    return name.removeprefix("base_model.model.")


def _sizes(module: Any) -> tuple[int, int]:
    """Outputs and inputs of a linear map, whichever way its weight stands."""
    if hasattr(module, "out_features"):
        return module.out_features, module.in_features
    inputs, outputs = module.weight.shape  # Conv1D
    return outputs, inputs
