"""What is said when a run has ended, in the terminal and on its page: what its selection saved, where its time went,
and what can be done next.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ..selector.savings import savings_line
from .numbers import score

#: Facts that are said in sentences and stand in no table.
IN_WORDS = (
    "stages",
    "lowest_layers",
    *("step_share", "step_share_from", "activation_share", "activation_share_from", "optimizer_share"),
    "optimizer_bytes",
    "budget",
    *("other_text_tokens", "other_text_loss_before", "other_text_loss", "forgotten"),
    *("blend", "blend_chosen", "thresholds"),
)


def stages_line(facts: Mapping[str, Any]) -> str | None:
    """Where the time of a run went; ``None`` where it does not say."""
    stages = facts.get("stages")
    if not stages:
        return None
    return f"{sum(stages.values()):.0f} s in all: " + ", ".join(f"{name} {took:.1f}" for name, took in stages.items())


def forgetting_line(facts: Mapping[str, Any]) -> str | None:
    """What the training did to the loss on a text of no task; ``None`` where nobody asked."""
    if "forgotten" not in facts:
        return None
    before, after, change = (facts[key] for key in ("other_text_loss_before", "other_text_loss", "forgotten"))
    read = f"loss on a text of no task ({facts['other_text_tokens']:,} tokens)"
    moved = "" if change is None else f": {abs(change):.3f} a token {'more' if change > 0 else 'less'}"
    return f"{read}: {score(before)} before the training and {score(after)} after it{moved}"


def blend_line(facts: Mapping[str, Any]) -> str | None:
    """What the answers of a predictor are made of, where they are blends; ``None`` where they are the model's own."""
    weight = facts.get("blend")
    if weight is None:
        return None
    chosen = ", a weight chosen on the validation split" if facts.get("blend_chosen") else ""
    return (
        f"answers of the trained model: {weight:g} of the log-probabilities of the model alone and {1 - weight:g} of "
        f"those of a logistic regression on the text{chosen}{_thresholds(facts)}"
    )


def _thresholds(facts: Mapping[str, Any]) -> str:
    """From which probability on several labels are answered."""
    found = facts.get("thresholds")
    if not found:
        return ""
    lowest, highest = min(found.values()), max(found.values())
    return (
        f"; each label is answered from a probability of its own on ({lowest:.2f} to {highest:.2f}, for the best "
        "expected F1), which its scores show as 0.5"
    )


def sentences(facts: Mapping[str, Any]) -> list[str]:
    """All of them, as sentences of a page."""
    lines = (savings_line(facts), forgetting_line(facts), stages_line(facts))
    return [f"{line[0].upper()}{line[1:]}." for line in lines if line is not None]


def next_commands(task: str, folder: str) -> dict[str, str]:
    """What can be done with a finished run: a word for it, and the command that can be typed.

    Args:
        task: ``intent`` or ``revise``.
        folder: where the run is.
    """
    run, config = shlex.quote(folder), shlex.quote(f"{folder.rstrip('/')}/config.json")
    use = {
        "intent": f"layerselect predict --adapter {run} --input FILE",
        "revise": f"layerselect rewrite --adapter {run} --intent NAME --input FILE",
    }
    return {
        "use it": use[task],
        "look at it": f"layerselect inspect {run}",
        "compare": f"layerselect compare --config {config} --out {shlex.quote(folder.rstrip('/') + '-compare')}",
    }
