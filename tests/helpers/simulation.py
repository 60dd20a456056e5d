"""A slow, plain simulation of what FastSelector must do, written from the design alone.

Every gradient is computed in every step; freezing is simulated by forgetting gradients. Nothing of the
package is used but the names of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn


def population_variance(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / len(values)


def variance_split(scores: list[float], window: tuple[float, float] = (0.35, 0.65)) -> set[int]:
    """Section 4 of the design, one split, inclusive."""
    count = len(scores)
    if count == 1:
        return {0}
    order = sorted(range(count), key=lambda i: (scores[i], i))
    ranked = [scores[i] for i in order]
    low, high = int(window[0] * count), int(window[1] * count)
    cuts = [k for k in range(1, count) if low <= k - 1 <= high]
    while not cuts:
        low, high = low - 1, high + 1
        cuts = [k for k in range(1, count) if low <= k - 1 <= high]
    costs = {k: population_variance(ranked[:k]) + population_variance(ranked[k:]) for k in cuts}
    best = min(costs.values())
    cut = min(k for k in cuts if costs[k] <= best * (1 + 1e-12))
    return set(order[cut - 1 :])


class Simulation:
    """One training run in mode ``freeze`` or ``gate`` with one AdamW per layer."""

    def __init__(
        self,
        model: nn.Module,
        layers: list[list[nn.Parameter]],
        outer: list[nn.Parameter],
        mode: str,
        probe_every: int,
        warmup: int = 0,
        interval: int = 1,
        lag: int = 0,
        pick: Callable[[list[float]], set[int]] = variance_split,
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = lambda p: torch.optim.AdamW(p, lr=1e-2),
    ) -> None:
        self.model, self.layers, self.mode = model, layers, mode
        self.probe_every, self.warmup, self.interval, self.pick = probe_every, warmup, interval, pick
        self.past: list[set[int]] = [set(range(len(layers)))] * (lag + 1)
        self.optimizers = [make_optimizer(layer) for layer in layers]
        self.outer_optimizer = make_optimizer(outer)
        self.scores = [math.nan] * len(layers)
        self.selection = set(range(len(layers)))
        self.frequency = [0] * len(layers)
        self.trained_frequency = [0] * len(layers)
        self.step_index = 0

    def step(self, loss: torch.Tensor) -> None:
        loss.backward()
        everything = set(range(len(self.layers)))
        probe = self.probe_every and (self.step_index - self.warmup) % self.probe_every == 0
        measures_all = self.mode == "gate" or probe or self.step_index <= self.warmup
        active = everything if measures_all else self.past[0]
        # A layer without any gradient is not measured: it keeps its score, or cannot be chosen while it has none.
        missing = {index for index in active if all(p.grad is None for p in self.layers[index])}
        out = {index for index in missing if math.isnan(self.scores[index])}
        for index in active - missing:
            self.scores[index] = math.sqrt(
                math.fsum(float((p.grad.double() ** 2).sum()) for p in self.layers[index] if p.grad is not None)
            )
        if self.step_index < self.warmup:
            self.selection = everything
        elif (self.step_index - self.warmup) % self.interval == 0:
            candidates = sorted(everything - out)
            self.selection = {candidates[i] for i in self.pick([self.scores[index] for index in candidates])}
            for index in self.selection:
                self.frequency[index] += 1
                self.trained_frequency[index] += index in active - missing
        self.past = [*self.past[1:], self.selection | missing]
        for index in (self.selection & active) - missing:
            self.optimizers[index].step()
        self.outer_optimizer.step()
        self.model.zero_grad()
        self.step_index += 1
