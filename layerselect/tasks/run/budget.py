"""What ``--budget`` means beside the other options of a run."""

from __future__ import annotations

from typing import Any

from ...errors import LayerSelectError
from ...selector.budgeted import check_budget, with_budget

#: Hidden states are cached where the model lets them be, and the budget chooses the cut.
BY_BUDGET = "budget"


def check_run_budget(settings: Any) -> None:
    """Checks the budget beside the rule and the cut.

    Args:
        settings: a :class:`~layerselect.tasks.run.settings.TrainingSettings`.

    Raises:
        LayerSelectError: it is out of range, or the rule or the cut says something else.
    """
    try:
        check_budget(settings.budget)
        with_budget(
            settings.rule,
            settings.cut,
            settings.budget,
            caches=settings.state_cache != "none",
            mode="freeze",
            seed=settings.seed,
        )
    except LayerSelectError as error:
        raise LayerSelectError(f"--budget {settings.budget:g}: {error}") from error
