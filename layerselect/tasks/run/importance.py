"""What ``importance.json`` of a run says of its selections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

IMPORTANCE_VERSION = 1


def importance(selector: Any) -> dict[str, Any]:
    """What ``importance.json`` holds: which layers were selected how often, and when; and how often they then trained.

    ``frequency`` counts selections, ``trained_frequency`` those of them in which the layer took gradients: in mode
    ``freeze`` a layer may be selected in a step whose backward pass left it out, and nothing of it trains then.
    ``selections`` lists runs of steps with the same selection: ``{"first": 1, "last": 20, "layers": [0, 3]}``, the
    first step of all being 0; ``trained`` likewise lists which layers took gradients, selected or not (in mode
    ``freeze``; probes train all). A run whose history does not hold all steps has ``history_steps``, the number of
    those that these lists are of.
    """
    rows = selector.history.arrays()
    steps = int(rows["step"][-1]) + 1 if len(rows["step"]) else 0
    return {
        "schema": IMPORTANCE_VERSION,
        "layer_names": list(selector.layer_names),
        "frequency": selector.frequency.cpu().tolist(),
        "trained_frequency": trained_frequency(selector, rows),
        "steps": steps,
        **({} if len(rows["step"]) == steps else {"history_steps": len(rows["step"])}),
        "rule": {"name": selector.rule.name, **selector.rule.config()},
        "mode": selector.mode,
        "score": selector.score,
        "selections": _runs(rows["step"], rows["mask"]),
        "trained": _runs(rows["step"], rows["trained"]),
    }


def trained_frequency(selector: Any, rows: Mapping[str, np.ndarray]) -> list[int]:
    """[L] In how many selections each layer was chosen and took gradients: the selector's own count, if it keeps one;
    by the rows of its history otherwise.
    """
    counted = getattr(selector, "trained_frequency", None)
    if counted is not None:
        return counted.cpu().tolist()
    selects = np.array([selector.schedule.selects_in(step) for step in rows["step"].tolist()], dtype=bool)
    return (rows["mask"] & rows["trained"])[selects].sum(axis=0).tolist()


def _runs(steps: np.ndarray, masks: np.ndarray) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    for step, mask in zip(steps.tolist(), masks, strict=True):
        layers = np.flatnonzero(mask).tolist()
        if runs and runs[-1]["layers"] == layers and runs[-1]["last"] == step - 1:
            runs[-1]["last"] = step
        else:
            runs.append({"first": step, "last": step, "layers": layers})
    return runs
