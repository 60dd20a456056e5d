"""The layers whose weights hold the most signal, by the spectrum of their matrices: no data and no gradients."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..distributed.sharding import is_sharded
from ..errors import LayerSelectError
from ..layers.view import ModelView
from ..utils.saved_schema import Items, Mapped, Number
from .base import Rule, Selection, check_saved
from .wrapping import Wrapping, base_rule, choose_by, name_pattern

#: The distance between the quartiles of a normal distribution, in its standard deviations.
_QUARTILES = 1.349


@dataclass(eq=False)
class Spectrum(Wrapping):
    """``base`` decides, once, by how much signal the weight matrices of each layer hold.

    The singular values of a matrix [n, m] of noise stay below a threshold (Marchenko and Pastur): sigma (1 +
    sqrt(min(n, m) / max(n, m))), with sigma the distance between their quartiles over 1.349. The signal-to-noise ratio
    of a matrix is the sum of the values above the threshold over the sum of the others, divided by the largest one.
    Matrices of different kinds (of queries, of the feed-forward part) differ by more than layers do, so each is ranked
    among those of its kind, as Spectrum does; a layer's score is the mean rank of its matrices, from 0 to 1.

    Source: Hartford et al., Spectrum (arXiv 2406.06623), which picks matrices of each kind apart; that whole layers are
    chosen, by mean ranks, is ours. The pretrained weights are looked at: not adapters, biases, norms or tables. The
    singular values are computed once, on the device of the weights, in float32.

    Args:
        base: a rule, or its name with options, that decides by scores; it sees the mean ranks.
        match: a regular expression; only the matrices of a layer in whose name it is found count.

    Raises:
        LayerSelectError: a layer has no such matrix, or its weights are packed, or lie in shards.
    """

    base: str | Rule = "fraction:p=0.5"
    match: str | None = None

    name = "spectrum"
    example = 'spectrum:base="fraction:p=0.25"'
    uses_scores = False  # not those of the gradients
    constant = True

    def __post_init__(self) -> None:
        self.base = base_rule(self.name, self.base)
        self._pattern = name_pattern(self.name, self.match)
        self._ranks: list[float] | None = None

    def prepare(self, view: ModelView) -> None:
        self.decider.prepare(view)
        if self._ranks is None:  # weights that have trained since would be others
            self._ranks = _mean_ranks([self._ratios(view, layer) for layer in range(len(view.modules))])

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        assert self._ranks is not None
        return choose_by(self.decider, self._ranks, status)

    def state_dict(self) -> dict[str, Any]:
        return {"ranks": self._ranks, "base": self.decider.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_saved(self, state, {"ranks": Items(Number(0.0, 1.0), self._num_layers), "base": Mapped()})
        self.decider.load_state_dict(state["base"])
        self._ranks = list(state["ranks"])

    def _ratios(self, view: ModelView, layer: int) -> dict[str, float]:
        """The ratios of a layer's matrices, by what these are called in every layer."""
        found = {
            name.replace(".base_layer", ""): signal_to_noise(parameter)
            for name, parameter in view.modules[layer].named_parameters()
            if parameter.ndim == 2 and self._counts(name, parameter)
        }
        if not found:
            where = f" in whose name {self.match!r} is found" if self.match else ""
            raise LayerSelectError(
                f"rule 'spectrum': layer {view.layer_names[layer]!r} has no pretrained matrix{where}"
            )
        return found

    def _counts(self, name: str, parameter: Tensor) -> bool:
        if not self._pattern.search(name) or "lora_" in name:
            return False
        if is_sharded(parameter) or not parameter.is_floating_point():
            raise LayerSelectError(
                f"rule 'spectrum': {name!r} is {'in shards' if is_sharded(parameter) else 'packed'}, so its singular "
                "values cannot be computed: find the layers with the plain weights on one device, and use "
                "rule 'fixed' with them"
            )
        return True


@torch.no_grad()
def signal_to_noise(weight: Tensor) -> float:
    """The ratio of a matrix [n, m] of any floating dtype; infinite where nothing is noise. The caller waits."""
    values = torch.linalg.svdvals(weight.detach().float())
    low, high = torch.quantile(values, torch.tensor([0.25, 0.75], device=values.device))
    shape = sorted(weight.shape)
    threshold = (high - low) / _QUARTILES * (1.0 + math.sqrt(shape[0] / shape[1]))
    signal, noise = values[values > threshold].sum(), values[values <= threshold].sum()
    largest = float(values.max())
    if largest == 0.0:
        return 0.0
    return float(signal / noise) / largest if float(noise) else math.inf


def _mean_ranks(ratios: Sequence[Mapping[str, float]]) -> list[float]:
    """For each layer the mean over its matrices of their ranks among those of the same kind, from 0 to 1 for the
    highest; equal ones share theirs, and one that stands alone has the middle.
    """
    of_kind: dict[str, list[float]] = defaultdict(list)
    for layer in ratios:
        for kind, value in layer.items():
            of_kind[kind].append(value)

    def rank(kind: str, value: float) -> float:
        others = of_kind[kind]
        if len(others) == 1:
            return 0.5
        below, alike = sum(other < value for other in others), others.count(value) - 1
        return (below + 0.5 * alike) / (len(others) - 1)

    return [sum(rank(kind, value) for kind, value in layer.items()) / len(layer) for layer in ratios]
