"""Where the cut is: given, or chosen from what a few steps show of the layers' gradients."""

from __future__ import annotations

import copy
import logging
import re
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ..costs.counted import LayerCosts, count_costs
from ..errors import LayerSelectError
from ..layers.view import ModelView
from ..rules import MEASURED, All, CostAware, ProbeOnce, Rule, VarianceSplit, make_rule
from ..rules.wrapping import choose_by
from ..utils.saved_schema import Fields, Maybe, Whole, check
from ..utils.saved_tensors import Numbers

logger = logging.getLogger(__name__)

#: What chooses the cut unless the caller says otherwise.
DEFAULT_CUT = "cost-aware:budget=0.5"

#: The cut is below the lowest layer of the rule that selects, if this rule always selects the same layers.
CUT_OF_RULE = "rule"

#: As many steps as Aletheia's probe has (arXiv 2604.15351).
_WATCHED_STEPS = 5

_NUMBER = re.compile(r"-?[0-9]{1,9}")


def is_number(cut: str) -> bool:
    """Whether it is a number of layers, and not a rule. Digits of ASCII: others are read as numbers nowhere."""
    return _NUMBER.fullmatch(cut) is not None


def check_cut_text(cut: str) -> None:
    """Raises LayerSelectError unless it is a number, ``"rule"``, or a rule with its options."""
    if not is_number(cut) and cut != CUT_OF_RULE:
        make_rule(cut)


class Cut:
    """Chooses the lowest layer that trains, once.

    Args:
        chosen_by: a number of layers below the cut; or a rule, or its text, whose lowest layer is the cut. A rule that
            reads scores is shown the mean scores of the first five steps (``probe-once``: of its ``steps``, and its
            base chooses). With ``cost-aware`` the cut is as deep as its budget allows, whatever the scores are, unless
            it has a base other than ``variance`` and ``all``, which then chooses. Its budget is a fraction of the step
            that trains all layers, and a step costs what its layers above the cut cost. ``"rule"`` is ``selecting``
            where this always selects the same layers. Of other rules nothing is below the cut.
        view: the model.
        selecting: the rule that selects the layers of each step.
        backend: the selector's.
        seed: for rules that draw.

    Attributes:
        watched: for how many steps the layers are watched before the cut is chosen; none of them trains meanwhile.
        depth: how many layers are below; ``None`` as long as that is not known.

    Raises:
        LayerSelectError: no such number of layers; no such rule; a rule that selects no layer.
    """

    def __init__(
        self,
        chosen_by: int | str | Rule,
        view: ModelView,
        selecting: Rule,
        *,
        backend: str = "auto",
        seed: int = 0,
    ) -> None:
        self._layers = len(view.layer_names)
        self.depth: int | None = None
        self.watched = 0
        self._seen = 0
        self._sums = torch.zeros(self._layers, dtype=torch.float64, device=view.device)
        self._counts = torch.zeros(self._layers, dtype=torch.int64, device=view.device)
        if isinstance(chosen_by, str) and is_number(chosen_by):
            chosen_by = int(chosen_by)
        if isinstance(chosen_by, int) and not isinstance(chosen_by, bool):
            self._activate(chosen_by)
            return
        if not isinstance(chosen_by, (str, Rule)):
            raise LayerSelectError(f"cut={chosen_by!r} is neither a number of layers nor a rule")
        self._of_rule = chosen_by == CUT_OF_RULE
        if self._of_rule:
            # A rule that chooses anew may choose any layer.
            self._rule: Rule = copy.deepcopy(selecting) if selecting.constant else All()
        else:
            self._rule = make_rule(chosen_by, seed=seed)
            if isinstance(self._rule, ProbeOnce):
                self.watched, self._rule = self._rule.steps, make_rule(self._rule.base, seed=seed)
            elif self._rule.uses_scores and not _is_budget(self._rule):
                self.watched = _WATCHED_STEPS
        if isinstance(self._rule, CostAware) and isinstance(self._rule.costs, str):
            self._rule = replace(self._rule, costs=costs_above(count_costs(view)))
        try:
            self._rule.bind(view.layer_names, backend)
            self._rule.prepare(view)
        except LayerSelectError as error:
            raise LayerSelectError(f"the cut: {error}") from error
        if not self.watched:
            self._choose(torch.full((self._layers,), float("nan")))

    def observe(self, scores: Tensor, status: Tensor) -> None:
        """Takes note of a step in which all layers were measured. Behind the last one watched the cut is chosen, for
        which the host waits, once.

        Args:
            scores, status: as :meth:`~layerselect.rules.Rule.after_step` is shown them.
        """
        fresh = status == MEASURED
        self._sums += scores.double().where(fresh, 0.0)
        self._counts += fresh
        self._seen += 1
        if self._seen == self.watched:
            self._choose((self._sums / self._counts).cpu())

    def state_dict(self) -> dict[str, Any]:
        return {
            "depth": self.depth,
            "seen": self._seen,
            "sums": self._sums.cpu().clone(),
            "counts": self._counts.cpu().clone(),
        }

    def check_state(self, state: Any, where: str) -> None:
        """Raises :class:`Mismatch` unless :meth:`load_state_dict` can take it."""
        layers = self._layers
        depth = Maybe(Whole(high=layers - 1))
        sums, counts = Numbers("float", (layers,)), Numbers("int", (layers,), low=0)
        check(Fields({"depth": depth, "seen": Whole(), "sums": sums, "counts": counts}), state, where)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.depth, self._seen = state["depth"], int(state["seen"])
        self._sums.copy_(state["sums"])
        self._counts.copy_(state["counts"])

    def _choose(self, means: Tensor) -> None:
        try:
            chosen = self._chosen(means)
        finally:
            self._rule.close()
        if self._of_rule:
            self.depth = min(chosen, default=self._layers - 1)
            return
        if not chosen:
            raise LayerSelectError(
                f"cut={self._rule.name!r} selects no layer, so it says nothing about where the cut is"
            )
        if chosen[0] == 0:
            logger.warning(
                "the rule %r for the cut selects the lowest layer: nothing is below the cut", self._rule.name
            )
            self.depth = 0
            return
        self._activate(chosen[0])

    def _chosen(self, means: Tensor) -> list[int]:
        if _is_budget(self._rule):
            return list(range(self._rule.deepest(), self._layers))
        everywhere = torch.full((self._layers,), MEASURED, dtype=torch.uint8)
        if self.watched:
            selection = choose_by(self._rule, means.tolist(), everywhere)
        else:
            selection = self._rule.select(means.float(), everywhere)
        found: list[int] = selection.mask.nonzero().flatten().tolist()
        return found

    def _activate(self, depth: int) -> None:
        if not 1 <= depth < self._layers:
            raise LayerSelectError(
                f"cut={depth} is not between 1 and {self._layers - 1}: the model has {self._layers} layers"
            )
        self.depth = depth


def _is_budget(rule: Rule) -> TypeGuard[CostAware]:
    """Whether it stands for its budget alone."""
    return isinstance(rule, CostAware) and isinstance(rule.base, (All, VarianceSplit))


def costs_above(costs: LayerCosts) -> LayerCosts:
    """What a step costs whose layers below its lowest trained one are not run: neither forward nor backward."""
    each = [sum(parts) for parts in zip(costs.forward, costs.input_gradient, costs.weight_gradient, strict=True)]
    return LayerCosts.from_steps([costs.rest + sum(each[depth:]) for depth in range(len(each))])
