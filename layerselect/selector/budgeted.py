"""A budget for a step: the rule and the cut that keep to it."""

from __future__ import annotations

import logging

from ..errors import LayerSelectError
from ..rules import CostAware, Rule, make_rule
from ..state_cache import DEFAULT_CUT

logger = logging.getLogger(__name__)


def check_budget(budget: float | None) -> None:
    """Raises LayerSelectError unless it is ``None`` or a number in (0, 1]."""
    if budget is None:
        return
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget <= 1:
        raise LayerSelectError(
            f"budget={budget!r} is not in (0, 1]: give what a step may cost as a fraction of the step that trains all "
            "layers, such as 0.5"
        )


def with_budget(
    rule: str | Rule, cut: int | str | Rule, budget: float | None, *, caches: bool, mode: str, seed: int
) -> tuple[Rule, int | str | Rule]:
    """The rule and the cut of a selector whose steps cost at most ``budget``.

    Without a cache of hidden states, ``cost-aware`` cuts down what ``rule`` selects. With one, the cut keeps to the
    budget: a step costs what the layers above it cost, and ``rule`` chooses among these.

    Args:
        rule, cut, seed: the selector's.
        budget: ``None`` changes nothing.
        caches: whether the selector has a cache of hidden states.
        mode: the selector's, resolved.

    Raises:
        LayerSelectError: ``rule`` has a budget of its own, or ``cut`` says something else.
    """
    made = make_rule(rule, seed=seed)
    if budget is None:
        return made, cut
    if isinstance(made, CostAware):
        raise LayerSelectError(
            f"budget={budget!r} beside rule {made.name!r}, which has a budget of its own: give one of them"
        )
    if mode != "freeze":
        logger.warning(
            "budget=%r saves nothing in mode %r, which computes all gradients: use mode='freeze' where it can be",
            budget,
            mode,
        )
    if not caches:
        return CostAware(float(budget), made), cut
    if cut != DEFAULT_CUT:
        raise LayerSelectError(f"budget={budget!r} chooses the cut, and cut={cut!r} says another one: give one of them")
    return made, CostAware(float(budget))
