"""What a run's selection cost beside training all layers: arithmetic, activations, memory of the optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..costs.counted import LayerCosts, count_costs
from ..layers.find import LayerSpec, split_parameters
from ..layers.view import ModelView
from ..utils.sizes import show_bytes
from .selector import FastSelector

#: So many of the layers that were the lowest are named.
_LOWEST = 3


def counted_costs(model: nn.Module, layers: LayerSpec = None) -> LayerCosts:
    """The costs of a model's layers, counted before a selector decides what takes gradients.

    Args:
        layers: as the selector is given them.
    """
    found = split_parameters(model, layers)
    device = next(model.parameters()).device
    return count_costs(ModelView(model, found.names, found.modules, found.layers, device))


def savings(
    selector: FastSelector,
    rows: Mapping[str, np.ndarray],
    costs: LayerCosts,
    optimizer: Any,
    *,
    saved_bytes: Sequence[int] = (),
    cached_steps: int = 0,
) -> dict[str, Any]:
    """Facts about a training, each beside the same training of all layers.

    Args:
        rows: of ``selector.history``.
        costs: those that :func:`counted_costs` gave. Where the rule has measured some, these count.
        optimizer: its state is counted as it is.
        saved_bytes: what each forward pass kept for its backward pass, if it was measured.
        cached_steps: in so many of the last steps, the layers below the cut did not run.

    Returns:
        ``step_share``: mean cost of a step (see :mod:`layerselect.costs.counted`). ``step_share_from``: ``counted`` or
        ``measured``. ``activation_share``: mean share of what a forward pass keeps for the backward pass, and
        ``activation_share_from``: ``measured``, or ``counted`` as the share of the layers from the lowest one up.
        ``optimizer_share``: parameters for which the optimizer keeps a state. ``optimizer_bytes``: what it keeps, by
        part of the model (:mod:`layerselect.selector.memory_by_part`). ``lowest_layers``: in how many steps each
        layer was the lowest that took gradients, by its number as text, the most frequent first.
    """
    took = rows["trained"]
    steps, layers = took.shape
    if not steps:
        return {}
    measured = getattr(selector.rule, "measured_costs", None)
    used = costs if measured is None else measured
    shares = np.array([used.step_cost(mask) for mask in took.tolist()])
    cut = selector.cut or 0
    if cut and cached_steps:
        shares[-cached_steps:] -= used.below_cost(cut)
    lowest = np.where(took.any(axis=1), took.argmax(axis=1), layers)
    counted = Counter(lowest[lowest < layers].tolist())
    facts = {
        "step_share": round(float(shares.mean()), 4),
        "step_share_from": "counted" if measured is None else "measured",
        "lowest_layers": {str(layer): count for layer, count in counted.most_common()},
        "optimizer_share": _optimizer_share(optimizer),
        "optimizer_bytes": {part.part: part.optimizer for part in selector.memory_by_part()},
    }
    return {**facts, **_activations(took, lowest, saved_bytes)}


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


def _activations(took: np.ndarray, lowest: np.ndarray, saved_bytes: Sequence[int]) -> dict[str, Any]:
    steps, layers = took.shape
    if len(saved_bytes) >= steps and took.all(axis=1).any():
        used = np.asarray(saved_bytes[: len(saved_bytes) // steps * steps], dtype=float)
        per_step = used.reshape(steps, -1).mean(axis=1)
        whole = per_step[took.all(axis=1)].mean()
        return {"activation_share": round(float(per_step.mean() / whole), 4), "activation_share_from": "measured"}
    share = float(np.mean((layers - lowest) / layers))
    return {"activation_share": round(share, 4), "activation_share_from": "counted"}


def _optimizer_share(optimizer: Any) -> float | None:
    """The share of the parameters for which an optimizer keeps tensors; ``None`` if it keeps none for any."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = [parameter for parameter in parameters if _has_state(optimizer.state.get(parameter, {}), parameter)]
    total = sum(parameter.numel() for parameter in parameters)
    return round(sum(parameter.numel() for parameter in kept) / total, 4) if kept else None


def _has_state(state: Mapping[str, Any], parameter: Tensor) -> bool:
    """Whether an optimizer keeps a tensor as large as the parameter, beside counters."""
    return any(isinstance(value, Tensor) and value.numel() == parameter.numel() for value in state.values())
