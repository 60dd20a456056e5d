"""The ways of training that a plan puts side by side: which layers train in the fullest step, and which in most."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ...core.schedule import Schedule
from ...costs.counted import LayerCosts
from ...rules import CostAware, Rule, Upper
from ...rules.base import always_selected

Mask = tuple[bool, ...]

#: In one step of so many all layers are measured again, as FastSelector has it.
_PROBE_EVERY = Schedule().probe_every
_BUDGET = CostAware().budget
_CACHED = Upper(0.25)


@dataclass(frozen=True)
class Way:
    """A row of the table.

    Attributes:
        name: as ``compare --methods`` has it, where it does.
        what: one line for the reader of a table.
        usual: the layers that train in most steps, given what layers cost.
        probes: all layers train in the first step and in some later ones, to be measured.
        whole: the layers' own weights train, not an adapter.
        cached: the layers below the lowest one run in the first epoch only.
    """

    name: str
    what: str
    usual: Callable[[LayerCosts], Mask]
    probes: bool = False
    whole: bool = False
    cached: bool = False

    def fullest(self, costs: LayerCosts) -> Mask:
        """The layers that train in the step that holds the most."""
        return every_layer(costs) if self.probes else self.usual(costs)

    def arithmetic(self, costs: LayerCosts) -> float:
        """What a step takes on average, in the unit of ``costs``, once the first epoch is over."""
        usual = costs.step_cost(self.usual(costs)) * costs.whole
        if self.cached:
            return usual - math.fsum(costs.forward[: self.usual(costs).index(True)])
        return usual + (costs.whole - usual) / _PROBE_EVERY if self.probes else usual


def every_layer(costs: LayerCosts) -> Mask:
    """All of them."""
    return (True,) * costs.num_layers


def _every_second(costs: LayerCosts) -> Mask:
    """What a split by variance is taken to select: half of the layers, all over the model."""
    return tuple(layer % 2 == 1 for layer in range(costs.num_layers)) if costs.num_layers > 1 else (True,)


def chosen_by(rule: Rule) -> Callable[[LayerCosts], Mask]:
    """The layers of a rule that is constant and asks nothing of the model."""

    def mask(costs: LayerCosts) -> Mask:
        rule.bind([str(layer) for layer in range(costs.num_layers)])
        return tuple(always_selected(rule, costs.num_layers).tolist())

    return mask


def _within_budget(costs: LayerCosts) -> Mask:
    """Of what a split by variance is taken to select, the deepest part that fits the budget."""
    chosen = _every_second(costs)
    for depth in range(costs.num_layers):
        mask = tuple(selected and layer >= depth for layer, selected in enumerate(chosen))
        if any(mask) and costs.step_cost(mask) <= _BUDGET:
            return mask
    return tuple(layer == costs.num_layers - 1 for layer in range(costs.num_layers))


WAYS = (
    Way("full", "all weights of the layers train", every_layer, whole=True),
    Way("all", "an adapter in every layer, in every step", every_layer),
    Way("ir", "IR-Tuning: the layers that the split by variance selects", _every_second, probes=True),
    Way("top-half", "the upper half of the layers in every step", chosen_by(Upper(0.5))),
    Way("cost-aware", f"IR-Tuning's choice, cut to {_BUDGET:g} of the cost of a step", _within_budget, probes=True),
    Way(
        "cached",
        "the upper quarter; what is below is read from the cache",
        chosen_by(_CACHED),
        cached=True,
    ),
)
