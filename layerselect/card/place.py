"""Where to put adapters: sets of layers that remove much loss for what they cost.

The gain of a set S comes from one scale for each layer's change: with r the layers' fresh resnorms and rho their
coupling,

    gain(S) = max over scales alpha >= 0 on S of  alpha' r - alpha' rho alpha / 2,

which is half the sum of r^2 where nothing is coupled, and what the best of them gives alone where all do the same.
Ours; derived in docs/layer_card.md. Negative couplings and negative r count as 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..costs.counted import LayerCosts
from ..errors import LayerSelectError
from ..placement import Placement
from ..utils.arguments import check_number, check_whole

OBJECTIVES = ("performance", "cost", "balanced")
KEEP = 0.9  # of the gain, under objective="cost"

_SWEEPS = 1000
#: Added to the diagonal, so that layers that do the same have one solution.
_RIDGE = 1e-10
_ACCURACY = 1e-9  # of the scales; the gain is flat there, so its own error is the square of that
#: A layer that adds less than this share of the gain of all adds nothing.
_NOTHING = 1e-6
#: A layer that is coupled so to another one does just the same.
_DOUBLE = 1 - 1e-6


class Placer:
    """Finds the layers that should get adapters.

    What a step costs is set by its lowest trained layer, so that layer is decided first: for every lowest layer d the
    layers from d up are added one by one, each time the one that adds most. All placements come from this family.

    Args:
        strengths: [L], fresh resnorms.
        coupling: [L, L], symmetric, 1 on the diagonal.
        costs: what a training step costs.
    """

    def __init__(self, strengths: np.ndarray, coupling: np.ndarray, costs: LayerCosts) -> None:
        self._r = np.clip(np.asarray(strengths, dtype=float), 0.0, None)
        self._pairs = np.clip(np.asarray(coupling, dtype=float), 0.0, None)
        self._costs = costs
        self._whole = self._value(range(len(self._r)))
        self._families: dict[int, list[Placement]] = {}

    def gain(self, layers: Sequence[int]) -> float:
        """The loss that adapting ``layers`` is predicted to remove, as a share of what all remove; 0 where no layer has
        any.
        """
        return self._value(layers) / self._whole if self._whole > 0 else 0.0

    def cost(self, layers: Sequence[int]) -> float:
        """The step that trains ``layers``, as a fraction of the step that trains all."""
        return self._costs.step_cost([layer in set(layers) for layer in range(len(self._r))])

    def added_cost(self, layers: Sequence[int]) -> float:
        """What the step that trains ``layers`` costs above one that trains none, as a share of what all layers add."""
        none = self._costs.depth_cost(len(self._r))
        return (self.cost(layers) - none) / (1.0 - none) if none < 1.0 else 0.0

    def place(self, k: int | None = None, *, budget: float | None = None, objective: str = "performance") -> Placement:
        """The best placement of the family with at most ``k`` layers and a cost of at most ``budget``.

        ``performance`` has the largest gain; single layers of it are then exchanged as long as that helps, and of ``k``
        layers that were asked for none is left out that fits and has a strength of its own above 0; ``cost``
        is the cheapest that keeps 90 % of the family's largest gain; ``balanced`` has the largest difference of gain
        and added cost, which is what the step costs above one that trains no layer; both are shares of what all layers
        give and add. Of equals the cheaper, then the smaller one.

        Raises:
            LayerSelectError: neither bound is given, no layer fits, or an argument has no meaning.
        """
        if objective not in OBJECTIVES:
            raise LayerSelectError(f"objective={objective!r} is not one of {', '.join(OBJECTIVES)}")
        if k is None and budget is None and objective == "performance":
            raise LayerSelectError(
                "objective='performance' without k or budget would take all layers: give one of them"
            )
        if k is not None:
            check_whole("k", k, 1)
        if budget is not None:
            check_number("budget", budget)
            if not 0 < budget <= 1:
                raise LayerSelectError(f"budget={budget!r} is not in (0, 1]")
        fits = [
            placement
            for placement in self._family(k)
            if (k is None or len(placement.layers) <= k) and (budget is None or placement.cost <= budget + 1e-12)
        ]
        if not fits:
            raise LayerSelectError(
                f"budget={budget!r} fits no layer, since the cheapest step that trains one costs "
                f"{self._costs.least():.4f} of the step that trains all: raise it"
            )
        largest = max(placement.gain for placement in fits)
        if objective == "performance":
            worth = [placement for placement in fits if placement.gain >= largest * (1 - 1e-9)]
        elif objective == "cost":
            worth = [placement for placement in fits if placement.gain >= KEEP * largest]
        else:
            worth = [max(fits, key=lambda p: (p.gain - self.added_cost(p.layers), -p.cost, -len(p.layers)))]
        found = min(worth, key=lambda p: (p.cost, len(p.layers), p.layers))
        if objective != "performance":
            return found
        found = self._exchanged(found, budget)
        return found if k is None else self._filled(found, k, budget)

    def front(self) -> list[Placement]:
        """The placements of the family that no other one beats in both gain and cost, cheapest first."""
        found: list[Placement] = []
        for placement in sorted(self._family(None), key=lambda p: (p.cost, -p.gain, len(p.layers))):
            if not found or placement.gain > found[-1].gain * (1 + 1e-9):
                found.append(placement)
        return found

    def _family(self, k: int | None) -> list[Placement]:
        """Every placement of at most ``k`` layers that is considered, without repetitions."""
        limit = len(self._r) if k is None else min(k, len(self._r))
        if limit not in self._families:
            found: dict[tuple[int, ...], Placement] = {}
            for lowest in reversed(range(len(self._r))):
                for layers, value in self._chain(lowest, limit):
                    key = tuple(sorted(layers))
                    if key not in found:
                        found[key] = self._placement(list(key), value)
            self._families[limit] = list(found.values())
        return self._families[limit]

    def _placement(self, layers: list[int], value: float) -> Placement:
        share = value / self._whole if self._whole > 0 else 0.0
        return Placement(sorted(layers), min(1.0, float(share)), self.cost(layers))

    def _exchanged(self, found: Placement, budget: float | None) -> Placement:
        """The same number of layers, single ones exchanged for others as long as the gain grows within the budget."""
        chosen, value = list(found.layers), self._value(found.layers)
        limit = math.inf if budget is None else budget + 1e-12
        better = True
        while better:
            better = False
            for layer in list(chosen):
                rest = [other for other in chosen if other != layer]
                others = [new for new in range(len(self._r)) if new not in chosen and self.cost([*rest, new]) <= limit]
                if not others:
                    continue
                values = self._extended(np.zeros(len(self._r)), rest, others)[1]
                best = int(values.argmax())
                if values[best] > value + _NOTHING * self._whole:
                    chosen, value, better = [*rest, others[best]], float(values[best]), True
                    break
        return self._placement(chosen, value)

    def _filled(self, found: Placement, k: int, budget: float | None) -> Placement:
        """With further layers up to ``k``: that coupled layers add nothing together is the least sure of all figures,
        and whoever asks for ``k`` layers means to pay for them. The one that adds most comes first, then the strongest;
        a double of a chosen one never.
        """
        chosen = list(found.layers)
        limit = math.inf if budget is None else budget + 1e-12
        while len(chosen) < k:
            others = [
                new
                for new in range(len(self._r))
                if new not in chosen
                and self._r[new] > 0
                and self._pairs[new, chosen].max() < _DOUBLE
                and self.cost([*chosen, new]) <= limit
            ]
            if not others:
                break
            values = self._extended(np.zeros(len(self._r)), chosen, others)[1]
            best = max(range(len(others)), key=lambda i: (round(float(values[i]), 12), self._r[others[i]], others[i]))
            chosen.append(others[best])
        return self._placement(chosen, self._value(chosen)) if len(chosen) > len(found.layers) else found

    def _chain(self, lowest: int, limit: int) -> list[tuple[list[int], float]]:
        """Sets of growing size, up to ``limit``, among the layers from ``lowest`` up, with their values."""
        chosen: list[int] = []
        alpha = np.zeros(len(self._r))
        value = 0.0
        chain: list[tuple[list[int], float]] = []
        while len(chosen) < min(limit, len(self._r) - lowest):
            others = [layer for layer in range(lowest, len(self._r)) if layer not in chosen]
            alphas, values = self._extended(alpha, chosen, others)
            # Of equals the upper one: it costs less.
            best = max(range(len(others)), key=lambda i: (round(float(values[i]), 12), others[i]))
            if chosen and values[best] <= value + _NOTHING * self._whole:
                break
            chosen, alpha, value = [*chosen, others[best]], alphas[best], float(values[best])
            chain.append((chosen, value))
        return chain

    def _value(self, layers: Sequence[int]) -> float:
        """The gain itself, layer after layer."""
        alpha, value = np.zeros(len(self._r)), 0.0
        chosen: list[int] = []
        for layer in layers:
            alphas, values = self._extended(alpha, chosen, [layer])
            alpha, value = alphas[0], float(values[0])
            chosen.append(layer)
        return value

    def _extended(
        self, alpha: np.ndarray, chosen: Sequence[int], others: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best scales when each of ``others`` in turn joins ``chosen``: [len(others), L], and the values.

        ``alpha`` is that of ``chosen``.
        """
        alphas = self._solved(chosen, others)
        if alphas is None:
            alphas = self._ascended(alpha, chosen, others)
        return alphas, alphas @ self._r - ((alphas @ self._pairs) * alphas).sum(axis=1) / 2

    def _solved(self, chosen: Sequence[int], others: Sequence[int]) -> np.ndarray | None:
        """The scales by linear equations; ``None`` where rho is not positive definite among some of these layers."""
        sets = np.array([[*chosen, other] for other in others])
        blocks = self._pairs[sets[:, :, None], sets[:, None, :]] + _RIDGE * np.eye(sets.shape[1])
        strengths = self._r[sets]
        try:
            np.linalg.cholesky(blocks)
            scales = np.linalg.solve(blocks, strengths[..., None])[..., 0]
        except np.linalg.LinAlgError:
            return None
        for row in np.flatnonzero((scales < 0).any(axis=1)):
            scales[row] = _nonnegative(blocks[row], strengths[row])
        alphas = np.zeros((len(others), len(self._r)))
        np.put_along_axis(alphas, sets, scales, axis=1)
        return alphas

    def _ascended(self, alpha: np.ndarray, chosen: Sequence[int], others: Sequence[int]) -> np.ndarray:
        """The scales by coordinate ascent from ``alpha``: it needs no concave gain, and finds the best of one."""
        r, pairs, rows, own = self._r, self._pairs, np.arange(len(others)), np.asarray(others)
        alphas = np.tile(alpha, (len(others), 1))
        for _ in range(_SWEEPS):
            before = alphas.copy()
            alphas[rows, own] = np.clip(r[own] - (alphas * pairs[own]).sum(axis=1) + alphas[rows, own], 0.0, None)
            for layer in chosen:
                alphas[:, layer] = np.clip(r[layer] - alphas @ pairs[layer] + alphas[:, layer], 0.0, None)
            if np.abs(alphas - before).max() <= _ACCURACY * max(r.max(), 1e-300):
                break
        return alphas


def _nonnegative(block: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """The scales of at least 0 that give the most: Lawson and Hanson's algorithm for least squares."""
    scales, free = np.zeros(len(strengths)), np.zeros(len(strengths), dtype=bool)
    for _ in range(3 * len(strengths)):
        slopes = np.where(free, -np.inf, strengths - block @ scales)
        if slopes.max() <= _ACCURACY * strengths.max():
            break
        free[slopes.argmax()] = True
        while free.any():
            wanted = np.zeros(len(strengths))
            wanted[free] = np.linalg.solve(block[np.ix_(free, free)], strengths[free])
            low = free & (wanted <= 0)
            if not low.any():
                scales = wanted
                break
            part = (scales[low] / np.maximum(scales[low] - wanted[low], 1e-300)).min()
            scales = scales + part * (wanted - scales)
            free &= scales > 1e-15 * strengths.max()
            scales[~free] = 0.0
    return scales
