"""What is said when a run has ended, in the terminal and on its page: what its selection saved, where its time went,
and what can be done next.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ..utils.sizes import show_bytes

#: So many of the layers that were the lowest are named.
_LOWEST = 3
#: Facts that are said in sentences and stand in no table.
IN_WORDS = (
    "stages",
    "lowest_layers",
    *("step_share", "step_share_from", "activation_share", "activation_share_from", "optimizer_share"),
    "optimizer_bytes",
    "budget",
)


def savings_line(facts: Mapping[str, Any]) -> str | None:
    """What the selection cost beside training all layers; ``None`` where a run does not say."""
    if facts.get("step_share") is None:
        return None
    budget = f", budget {facts['budget']:.0%}" if facts.get("budget") is not None else ""
    parts = [
        f"{facts['step_share']:.0%} of a step's arithmetic ({facts['step_share_from']}{budget})",
        f"{facts['activation_share']:.0%} of its activations ({facts['activation_share_from']})",
    ]
    if facts.get("optimizer_share") is not None:
        parts.append(f"{facts['optimizer_share']:.0%} of the optimizer's memory{_by_part(facts)}")
    text = f"beside training all layers: {', '.join(parts)}"
    lowest = list(facts["lowest_layers"].items())[:_LOWEST]
    if not lowest:
        return f"{text}; no layer trained"
    shares = ", ".join(f"layer {layer} in {count / facts['steps']:.0%}" for layer, count in lowest)
    return f"{text}; the lowest layer that took gradients was {shares} of the steps"


def _by_part(facts: Mapping[str, Any]) -> str:
    """Where the optimizer's memory is, if not all of it is the layers'."""
    found = {part: size for part, size in (facts.get("optimizer_bytes") or {}).items() if size}
    if set(found) <= {"layers"}:
        return ""
    return f" ({', '.join(f'{part} {show_bytes(size)}' for part, size in found.items())})"


def stages_line(facts: Mapping[str, Any]) -> str | None:
    """Where the time of a run went; ``None`` where it does not say."""
    stages = facts.get("stages")
    if not stages:
        return None
    return f"{sum(stages.values()):.0f} s in all: " + ", ".join(f"{name} {took:.1f}" for name, took in stages.items())


def sentences(facts: Mapping[str, Any]) -> list[str]:
    """Both, as sentences of a page."""
    lines = (savings_line(facts), stages_line(facts))
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
