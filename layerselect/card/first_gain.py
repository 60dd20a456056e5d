"""First gain: by how much the first steps of an optimizer lower the loss when one layer alone is adapted.

A LoRA starts with its second factor B at zero, so at first only B has a gradient. An optimizer moves B along a line u:
SGD along the mean gradient; AdamW, whose steps have the size of the learning rate whatever the gradient's, along the
gradient's mean over its root mean square, which is its sign where all batches agree. After k steps of learning rate lr
the loss has fallen by ``t slope - t^2 curvature / 2`` with t = k lr. Derived in docs/layer_card.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .adapt import LossOf, adapted
from .figures import FirstGain
from .maps import LinearMap

#: The curvature is measured on so many batches at most: each costs a pass for every layer and optimizer.
CURVED = 8
#: What AdamW adds to the root mean square.
_EPS = 1e-8


def first_gains(
    maps: Sequence[Sequence[LinearMap]],
    loss: LossOf,
    fit: Sequence[Any],
    check: Sequence[Any],
    *,
    steps: int,
    rank: int,
    rates: Mapping[str, float],
    seed: int = 0,
    done: Callable[[int], None] = lambda layer: None,
) -> list[dict[str, FirstGain]]:
    """For each layer, what the first ``steps`` steps of each optimizer are predicted to give.

    The lines come from ``fit``, their slopes and curvatures from ``check``. That takes one pass over both for all
    layers together, and for the curvatures one pass for each layer and optimizer over at most eight of ``check``.

    Args:
        maps: of each layer. The model is frozen and in evaluation mode.
        loss: the sum of a batch's losses, and how many they are.
        rates: the learning rates of ``adamw`` and ``sgd``.
        seed: of the adapters, the same as those of :func:`layerselect.card.adapt.performance`.
        done: told of each layer that is finished.
    """
    with ExitStack() as stack:
        ups = [_second_factors(stack.enter_context(adapted(own, rank, seed))) for own in maps]
        every = [up for own in ups for up in own]
        lines = _lines(loss, fit, every)
        curved = [check[number] for number in _spread(len(check), CURVED)]
        slope_at = _gradient(loss, check, every)
        start_at = slope_at if len(curved) == len(check) else _gradient(loss, curved, every)
        found, first = [], 0
        for layer, own in enumerate(ups):
            here = slice(first, first + len(own))
            first += len(own)
            gains = {}
            for name, line in lines.items():
                there = _moved(loss, curved, own, line[here], rates[name])
                slope = _product(slope_at[here], line[here])
                curvature = (_product(start_at[here], line[here]) - _product(there, line[here])) / rates[name]
                gains[name] = FirstGain(slope, curvature, gain_along(slope, curvature, rates[name], steps))
            found.append(gains)
            done(layer)
    return found


def gain_along(slope: float, curvature: float, lr: float, steps: int) -> float:
    """The fall of the loss after the best number of steps along a line, from one to ``steps``; it need not be whole.

    Negative where already the first step does harm.
    """
    far = lr * steps
    distance = lr  # no way down: the first step is taken all the same
    if slope > 0:
        distance = far if slope >= curvature * far else max(slope / curvature, lr)
    return distance * slope - distance**2 * curvature / 2


def _second_factors(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """Those that are zero at first; the others take no gradient, since theirs is zero."""
    for down in parameters[::2]:
        down.requires_grad_(False)
    return parameters[1::2]


def _lines(loss: LossOf, batches: Sequence[Any], ups: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """What each optimizer subtracts in a step of learning rate 1, on average over the batches: [rank, m] each."""
    sums, squares = [torch.zeros_like(up) for up in ups], [torch.zeros_like(up) for up in ups]
    for batch in batches:
        for held, square, part in zip(sums, squares, _gradient(loss, [batch], ups), strict=True):
            held += part
            square += part**2
    means = [held / len(batches) for held in sums]
    roots = [(square / len(batches)).sqrt() for square in squares]
    return {
        "adamw": [mean / (root + _EPS) for mean, root in zip(means, roots, strict=True)],
        "sgd": means,
    }


def _gradient(loss: LossOf, batches: Sequence[Any], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Of the mean loss over the batches."""
    sums, units = [torch.zeros_like(parameter) for parameter in parameters], 0
    for batch in batches:
        total, count = loss(batch)
        units += count
        for held, part in zip(sums, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
            if part is not None:  # a map that this batch did not reach
                held += part
    return [held / units for held in sums]


def _moved(
    loss: LossOf, batches: Sequence[Any], parameters: Sequence[Tensor], line: Sequence[Tensor], lr: float
) -> list[Tensor]:
    """The gradient one step of ``lr`` along a line."""
    with torch.no_grad():
        for parameter, direction in zip(parameters, line, strict=True):
            parameter -= lr * direction
    try:
        return _gradient(loss, batches, parameters)
    finally:
        with torch.no_grad():
            for parameter in parameters:
                parameter.zero_()


def _product(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return float(sum((a.double() * b.double()).sum() for a, b in zip(one, other, strict=True)))


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, spread evenly."""
    taken = min(count, most)
    return [int((number + 0.5) * count / taken) for number in range(taken)]
