"""Another rule's selection, cut down to what a budget allows."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..costs.counted import LayerCosts, count_costs
from ..costs.measured import CostMeter
from ..errors import LayerSelectError
from ..layers.view import ModelView
from ..status import MEASURED
from ..utils.device_copies import to_device
from ..utils.saved_schema import Mapped
from .base import Rule, Selection, check_fraction, check_saved
from .registry import make_rule
from .variance_split import VarianceSplit
from .wrapping import Wrapping

logger = logging.getLogger(__name__)

#: A step that costs so little more than the budget fits it, as in the kernels.
_ROUNDING = 1e-12


@dataclass(eq=False)
class CostAware(Wrapping):
    """Keeps of another rule's selection the layers that fit a budget, and of what fits the most score per cost.

    What a step costs is set by the lowest layer that trains (:mod:`layerselect.costs.counted`), so the question is how
    deep to go. With S_b the selection of ``base``, the candidates are S_d = {l in S_b, l >= d} for the layers d of S_b.
    Of those whose step costs at most ``budget``, that with the greatest

        (sum of the scores over S_d) / cost(S_d)

    is taken, the higher d on ties (values within a relative 1e-12 are ties). Where none fits, the layer with the
    highest score that fits alone, of equal ones the higher. With ``base="all"`` every layer may be taken, and scores
    and costs say how deep to go.

    A layer whose gradient is not finite is never taken; one that was never measured counts with the highest score there
    is (1 where nothing is measured). Both get a gradient in the next pass, whatever is selected. All layers get one
    while the selector warms up and in its probes, so a run costs a little more than the budget: with ``probe_every=20``
    and 0.7, 0.7 + 0.3 / 20. Modes ``gate`` and ``observe`` compute all gradients: there the budget is only what the
    selection would cost in mode ``freeze``.

    Args:
        budget: in (0, 1], the most that a step may cost, as a fraction of the step that trains all layers.
        base: the rule whose selection is cut down; a rule or its text.
        costs: ``"counted"`` from the shapes of the weights: the same in every run. ``"measured"`` in the first passes
            in which all layers train (one to warm up, three that count; ``warmup=4`` has them at once, otherwise probes
            come to it), after which they stand, and are saved with the selector; until then the counted ones serve. Or
            your own: a :class:`~layerselect.costs.counted.LayerCosts`, the same as a dict, or a list of L numbers, of
            which the d-th is what a step costs that trains the layers from d up, in any unit.

    A budget that fits no layer becomes what the cheapest layer costs, with a warning.
    """

    budget: float = 0.7
    base: Rule | str = field(default_factory=VarianceSplit)
    costs: str | LayerCosts | Mapping[str, Any] | list[float] = "counted"

    name = "cost-aware"
    example = "cost-aware:budget=0.7"

    def __post_init__(self) -> None:
        check_fraction(self.name, "budget", self.budget)
        self.base = make_rule(self.base)
        if isinstance(self.base, CostAware):
            raise LayerSelectError("rule 'cost-aware': base is cost-aware itself: one budget is enough")
        if isinstance(self.costs, str):
            if self.costs not in ("counted", "measured"):
                raise LayerSelectError(f"rule 'cost-aware': costs={self.costs!r} is neither 'counted' nor 'measured'")
        elif isinstance(self.costs, Mapping):
            self.costs = LayerCosts.from_dict(self.costs)
        elif not isinstance(self.costs, LayerCosts):
            self.costs = LayerCosts.from_steps(self.costs)
        self._in_force: LayerCosts | None = None
        self._measured: LayerCosts | None = None
        self._meter: CostMeter | None = None
        self._said = 0.0  # the limit of the last warning

    @property
    def layer_costs(self) -> LayerCosts:
        """The costs in force.

        Raises:
            LayerSelectError: the rule has not been shown a model yet.
        """
        if self._in_force is None:
            raise LayerSelectError(
                "rule 'cost-aware' does not know what the layers cost: hand it to a FastSelector first"
            )
        return self._in_force

    @property
    def measured_costs(self) -> LayerCosts | None:
        """The costs in force, where they were measured."""
        return self._measured

    @property
    def cost_table(self) -> Tensor:
        """float64 [2 L + 1] on the CPU, see :meth:`layerselect.costs.counted.LayerCosts.table`."""
        self.layer_costs  # noqa: B018, says so where there is none
        return self._table

    def deepest(self) -> int:
        """The lowest layer such that a step which trains it and all layers above fits the budget; the highest layer
        where none does. Scores have no part in it.

        Raises:
            LayerSelectError: the rule has not been shown a model yet.
        """
        costs = self.layer_costs
        found, trains = costs.num_layers - 1, 0.0
        for layer in reversed(range(costs.num_layers)):
            trains += costs.train_cost(layer)
            if costs.depth_cost(layer) + trains <= self.limit * (1.0 + _ROUNDING):
                found = layer
        return found

    def prepare(self, view: ModelView) -> None:
        self._close_meter()
        length = len(view.layer_names)
        costs = self.costs if isinstance(self.costs, LayerCosts) else count_costs(view)
        if costs.num_layers != length:
            raise LayerSelectError(
                f"rule 'cost-aware': costs are given for {costs.num_layers} layers, the model has {length}"
            )
        self._measured = None
        self.decider.prepare(view)
        self._use(costs)
        if self.costs == "measured":
            self._meter = CostMeter(view, costs, self._take_measured)

    def close(self) -> None:
        self._close_meter()
        super().close()

    def against_capture(self) -> str | None:
        if self._meter is not None:
            return (
                "rule 'cost-aware' still measures what the layers cost, and a replay would go on with the counted "
                "costs for good, so make steps that train all layers (warmup=8) before the graph, or use "
                "costs='counted'"
            )
        return super().against_capture() or self.decider.against_capture()

    def without_model(self) -> dict[str, Any]:
        return {"_meter": None}

    def select(self, scores: Tensor, status: Tensor) -> Selection:
        chosen = self.decider.select(scores, status)
        mask, share, cost = self._backend.within_budget(scores, status, chosen.mask, self.cost_table, self.limit)
        return Selection(mask, chosen.threshold, kept_share=share, step_cost=cost)

    def kernel_options(self, num_layers: int, device: torch.device) -> dict[str, Any] | None:
        """What the kernels are told: the options of ``base``, or its choice where that never changes, with the
        costs.
        """
        base = self.decider.kernel_options(num_layers, device)
        if base is None and not self.decider.uses_scores and not self.decider.state_dict():
            status = torch.full((num_layers,), MEASURED, dtype=torch.uint8)
            mask = self.decider.select(torch.full((num_layers,), math.nan), status).mask
            base = {"kind": "fixed", "fixed": to_device(mask, device)}
        if base is None:
            return None
        return {**base, "costs": to_device(self.cost_table, device), "budget": self.limit}

    def after_step(self, scores: Tensor, status: Tensor) -> None:
        self.decider.after_step(scores, status)

    def config(self) -> dict[str, Any]:
        costs = self.costs.to_dict() if isinstance(self.costs, LayerCosts) else self.costs
        return {**super().config(), "costs": costs}

    def state_dict(self) -> dict[str, Any]:
        """The base's state, and the measured costs once they stand."""
        measured = {} if self._measured is None else {"measured": self._measured.to_dict()}
        return {"base": self.decider.state_dict(), **measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        check_saved(self, state, {"base": Mapped(), **({"measured": Mapped()} if "measured" in state else {})})
        costs = LayerCosts.from_dict(state["measured"]) if "measured" in state and self.costs == "measured" else None
        if costs is not None and costs.num_layers != self._num_layers:
            raise LayerSelectError(
                f"the saved state of rule 'cost-aware' is damaged: it has costs of {costs.num_layers} layers, not of "
                f"{self._num_layers}; resume from an older checkpoint"
            )
        self.decider.load_state_dict(state["base"])
        if costs is not None:
            self._take_measured(costs)

    def _take_measured(self, costs: LayerCosts) -> None:
        self._close_meter()
        self._measured = costs
        self._use(costs)
        logger.info(
            "measured costs: a layer's backward pass takes %.3f of the step that trains all layers, at the median",
            sorted(costs.depth_cost(d) - costs.depth_cost(d + 1) for d in range(costs.num_layers))[
                costs.num_layers // 2
            ],
        )

    def _use(self, costs: LayerCosts) -> None:
        self._in_force, self._table = costs, costs.table()
        least = costs.least()
        #: The budget, unless not even the cheapest layer fits it.
        self.limit = max(self.budget, least)
        self.revision += 1
        provisional = self.costs == "measured" and self._measured is None
        if self.limit > self.budget and not provisional and self._said != self.limit:
            self._said = self.limit
            logger.warning(
                "rule 'cost-aware': the cheapest step that trains a layer costs %.3f of the step that trains all, more "
                "than budget=%r: that is the budget now, and the cheapest layer trains",
                least,
                self.budget,
            )

    def _close_meter(self) -> None:
        if self._meter is not None:
            self._meter.close()
            self._meter = None
