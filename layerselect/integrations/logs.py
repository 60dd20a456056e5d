"""What a selection tells the loggers of a training, under the same names wherever it trains."""

from __future__ import annotations

import math

from ..selector.selector import FastSelector

#: Names in the logs.
PREFIX = "layerselect/"
SCORES = PREFIX + "score/"


def facts_of(selector: FastSelector) -> dict[str, float]:
    """What was selected in the last step. The call waits for the device."""
    selected = selector.selected()
    facts: dict[str, float] = {
        PREFIX + "num_trained": len(selected),
        PREFIX + "lowest_trained": selected[0] if selected else -1,
    }
    for name in ("threshold", "kept_share", "step_cost"):
        value = float(getattr(selector, name))
        if math.isfinite(value):  # NaN where the rule cuts no scores, or knows no budget
            facts[PREFIX + name] = value
    return facts


def scores_of(selector: FastSelector) -> dict[str, float]:
    """The last score of each layer that was ever measured. The call waits for the device."""
    scores = enumerate(selector.scores.tolist())
    return {f"{SCORES}{layer}": score for layer, score in scores if not math.isnan(score)}
