"""The selection rules, over Python numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..status import EXCLUDED, MEASURED, NEVER_MEASURED

MAX_LAYERS = 1024
TIE_TOLERANCE = 1e-12


def _ranked(scores: Tensor, status: Tensor) -> tuple[list[int], int, list[float]]:
    """(layers in rank order, how many of them are measured, all scores)."""
    if scores.dtype != torch.float32 or scores.dim() != 1:
        raise ValueError(f"scores has dtype {scores.dtype} and {scores.dim()} dimensions; it must be a float32 vector")
    if status.dtype != torch.uint8 or status.dim() != 1:
        raise ValueError(f"status has dtype {status.dtype} and {status.dim()} dimensions; it must be a uint8 vector")
    if scores.numel() != status.numel():
        raise ValueError(
            f"scores has {scores.numel()} entries and status {status.numel()}; there must be one status for each score"
        )
    if scores.numel() > MAX_LAYERS:
        raise ValueError(f"scores has {scores.numel()} entries; at most {MAX_LAYERS} layers can be ranked")
    values, states = scores.tolist(), status.tolist()
    for layer, (value, state) in enumerate(zip(values, states, strict=True)):
        if state not in (EXCLUDED, MEASURED, NEVER_MEASURED):
            raise ValueError(f"status[{layer}] is {state}; it must be 0 (excluded), 1 (measured) or 2 (never measured)")
        if state == MEASURED and not math.isfinite(value):
            raise ValueError(f"scores[{layer}] is {value}; a measured score must be finite")
    measured = sorted((i for i, s in enumerate(states) if s == MEASURED), key=lambda i: values[i])  # stable
    never = [i for i, s in enumerate(states) if s == NEVER_MEASURED]
    return measured + never, len(measured), values


def _selection(scores: Tensor, layers: Sequence[int], threshold: float) -> tuple[Tensor, Tensor]:
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[list(layers)] = True
    return mask.to(scores.device), torch.tensor(threshold, dtype=torch.float32, device=scores.device)


def _variance(values: Sequence[float]) -> float:
    """Population variance; exactly 0 for equal values."""
    shifted = [v - values[0] for v in values]
    mean = math.fsum(shifted) / len(shifted)
    return math.fsum((v - mean) ** 2 for v in shifted) / len(shifted)


def _cut(values: Sequence[float], lo: float, hi: float) -> int:
    """The number k of values below the cut of m >= 2 ascending values."""
    m = len(values)
    first, last = int(lo * m) + 1, int(hi * m) + 1
    while not any(1 <= k <= m - 1 for k in range(first, last + 1)):
        first, last = first - 1, last + 1
    costs = {k: _variance(values[:k]) + _variance(values[k:]) for k in range(max(first, 1), min(last, m - 1) + 1)}
    least = min(costs.values())
    return min(k for k, cost in costs.items() if cost <= least * (1.0 + TIE_TOLERANCE))


def variance_split(
    scores: Tensor, status: Tensor, window_lo: float, window_hi: float, inclusive: bool, splits: int
) -> tuple[Tensor, Tensor]:
    """The rule of DESIGN section 4 over layers of any status; see :func:`layerselect.ops.variance_split`."""
    ranked, num_measured, values = _ranked(scores, status)
    if not 0.0 <= window_lo <= window_hi <= 1.0:
        raise ValueError(f"window is ({window_lo}, {window_hi}); it must hold 0 <= low <= high <= 1")
    if not 1 <= splits <= MAX_LAYERS:
        raise ValueError(f"splits is {splits}; it must be at least 1 and at most {MAX_LAYERS}")
    selected, threshold = ranked[:num_measured], math.nan
    for _ in range(splits):
        if len(selected) < 2:
            threshold = values[selected[0]] if selected else math.nan
            break
        k = _cut([values[i] for i in selected], window_lo, window_hi)
        threshold = values[selected[k - 1]]
        selected = selected[k - 1 :] if inclusive else selected[k:]
    return _selection(scores, selected + ranked[num_measured:], threshold)


def top_ranked(scores: Tensor, status: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Selects the k highest ranked layers; the threshold is the lowest measured score among them, or NaN."""
    ranked, num_measured, values = _ranked(scores, status)
    if k < 0:
        raise ValueError(f"k is {k}; it must not be negative")
    first = max(len(ranked) - k, 0)
    threshold = values[ranked[first]] if first < num_measured else math.nan
    return _selection(scores, ranked[first:], threshold)


def within_budget(
    scores: Tensor, status: Tensor, base: Tensor, costs: Tensor, budget: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The rule of :class:`layerselect.rules.CostAware`.

    Args:
        scores: float32 [L]; measured ones are not negative.
        status: uint8 [L].
        base: bool [L], the selection to cut down.
        costs: float64 [2 L + 1]: what a step costs whose lowest trained layer is 0 .. L - 1, or that trains none,
            without the gradients of the layers' own parameters; then those of each layer.
        budget: the most that a step may cost.

    Returns:
        (mask bool [L], share of the base's scores that is kept float32 [], cost of the step float32 [])
    """
    ranked, num_measured, values = _ranked(scores, status)
    length = len(values)
    if base.dtype != torch.bool or base.shape != (length,):
        raise ValueError(f"base has dtype {base.dtype} and shape {tuple(base.shape)}; it must be bool [{length}]")
    if costs.dtype != torch.float64 or costs.shape != (2 * length + 1,):
        raise ValueError(
            f"costs has dtype {costs.dtype} and shape {tuple(costs.shape)}; it must be float64 [{2 * length + 1}]"
        )
    if not 0.0 < budget < math.inf:
        raise ValueError(f"budget is {budget}; it must be a positive number")
    worth = {i: values[i] for i in ranked[:num_measured]}
    if min(worth.values(), default=0.0) < 0.0:
        raise ValueError(f"a measured score is {min(worth.values())}; within a budget scores must not be negative")
    worth.update(dict.fromkeys(ranked[num_measured:], max(worth.values(), default=1.0)))
    depths: list[float] = costs[: length + 1].tolist()
    trains: list[float] = costs[length + 1 :].tolist()
    chosen = [i for i, flag in enumerate(base.tolist()) if flag and i in worth]

    def cost_of(layers: Sequence[int]) -> float:
        return depths[min(layers, default=length)] + math.fsum(trains[i] for i in layers)

    def worth_of(layers: Sequence[int]) -> float:
        return math.fsum(worth[i] for i in layers)

    kept: list[int] = []
    candidates = [chosen[start:] for start in range(len(chosen))]
    fitting = [layers for layers in candidates if cost_of(layers) <= budget * (1.0 + TIE_TOLERANCE)]
    if fitting:
        greatest = max(worth_of(layers) / cost_of(layers) for layers in fitting)
        kept = [x for x in fitting if worth_of(x) / cost_of(x) >= greatest * (1.0 - TIE_TOLERANCE)][-1]
    elif chosen:
        alone = [i for i in sorted(worth) if cost_of([i]) <= budget * (1.0 + TIE_TOLERANCE)]
        kept = [max(alone, key=lambda i: (worth[i], i))] if alone else []
    total = worth_of(chosen)
    share = worth_of([i for i in kept if i in chosen]) / total if total > 0.0 else 1.0
    mask, kept_share = _selection(scores, kept, share)
    return mask, kept_share, torch.tensor(cost_of(kept), dtype=torch.float32, device=scores.device)


def above(scores: Tensor, status: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Selects the layers with a score of at least gamma (rounded to float32), and those never measured."""
    if math.isnan(gamma):
        raise ValueError("gamma is NaN; it must be a number")
    ranked, num_measured, values = _ranked(scores, status)
    gamma = torch.tensor(gamma, dtype=torch.float32).item()
    measured = [i for i in ranked[:num_measured] if values[i] >= gamma]
    return _selection(scores, measured + ranked[num_measured:], gamma)
