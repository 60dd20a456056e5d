"""One sweep over the batches for some of the layers: add up, solve, check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..layers.padding import PaddingMasks
from .intervals import Contributions
from .losses import BatchLoss, Counted, directions, likelihood_of, positions_that_matter
from .maps import LinearMap, gradients_from
from .memory import Survey
from .projection import Projection
from .resnorm import Features, Solved
from .settings import MeasureSettings
from .statistics import Statistics


@dataclass(frozen=True)
class Swept:
    """What a sweep found.

    Attributes:
        layers: which layers, ascending.
        solved: for each of them its maps' figures (their changes dropped) with the rows they were measured on.
        contributions: of the check batches.
        moved: float64 [layers, S], see :func:`layerselect.card.coupling.coupling`; no columns where no coupling is
            measured.
        fit_units, check_units: the number of losses.
    """

    layers: list[int]
    solved: list[list[tuple[Solved, int]]]
    contributions: Contributions
    moved: np.ndarray
    fit_units: int
    check_units: int


class Sweeper:
    """Sweeps over batches.

    Args:
        counted: at which outputs something is asked for; ``None`` looks at the labels and the padding.
        step: called after each batch.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: BatchLoss,
        found: Survey,
        settings: MeasureSettings,
        dtype: torch.dtype,
        step: Callable[[], None],
        counted: Counted | None = None,
    ) -> None:
        self._model, self._loss, self._found, self._settings = model, loss, found, settings
        self._dtype, self._step, self._counted = dtype, step, counted

    def sweep(self, layers: Sequence[int], fit: Sequence[Any], check: Sequence[Any]) -> Swept:
        """Measures ``layers`` in a model that is frozen."""
        maps = [linear for layer in layers for linear in self._found.layers.maps[layer]]
        leaders, start = [], 0
        for layer in layers:
            leaders += [start + leader for leader in self._found.leaders[layer]]
            start = len(leaders)
        padding = PaddingMasks(self._model, [linear.module for linear in maps])
        try:
            statistics = Statistics(maps, leaders, padding, self._dtype)
            units = self._add_up(statistics, maps, fit)
            solved = self._solve(statistics, maps, leaders, units)
            changes = [one.change for one, _ in solved]
            del statistics
            contributions, moved = self._look(Projection(maps, changes, layers, padding), maps, check)
        finally:
            padding.close()
        grouped = {
            layer: [
                (_without_change(one), rows)
                for (one, rows), linear in zip(solved, maps, strict=True)
                if linear.layer == layer
            ]
            for layer in layers
        }
        return Swept(
            list(layers),
            [grouped[layer] for layer in layers],
            contributions,
            moved,
            units,
            int(contributions.units.sum()),
        )

    def _add_up(self, statistics: Statistics, maps: Sequence[LinearMap], batches: Sequence[Any]) -> int:
        units = 0
        # The hooks run in the order in which they are put on: first the output becomes a leaf, then it is watched.
        with gradients_from(maps), statistics.watching():
            for batch in batches:
                total, count = self._loss(batch)
                total.backward()
                units += count
                self._step()
        statistics.mirror()
        return units

    def _solve(
        self, statistics: Statistics, maps: Sequence[LinearMap], leaders: Sequence[int], units: int
    ) -> list[tuple[Solved, int]]:
        """The figures of each map, with its rows. Each map's change takes the place of its sums."""
        solved: list[tuple[Solved, int]] = []
        features: Features | None = None
        for index, (linear, leader) in enumerate(zip(maps, leaders, strict=True)):
            sums = statistics.sums[index]
            if leader == index:  # the maps that read the same input follow at once
                features = Features(sums.gram, sums.rows, self._settings.ridge, linear.name)
            assert features is not None
            one = features.solve(sums.cross, units)
            sums.cross.copy_(one.change)
            solved.append((replace(one, change=sums.cross), sums.rows))
        return solved

    def _look(
        self, projection: Projection, maps: Sequence[LinearMap], batches: Sequence[Any]
    ) -> tuple[Contributions, np.ndarray]:
        # The same seed in every sweep: all layers are seen from the same directions.
        generator = torch.Generator().manual_seed(self._settings.seed)
        removed, square, units, moved = [], [], [], []
        with gradients_from(maps), projection.watching():
            for batch in batches:
                projection.begin()
                total, count = self._loss(batch)
                found = self._directions(batch, generator)
                projection.expect(len(found))
                total.backward(retain_graph=bool(found))
                for number, direction in enumerate(found):
                    projection.follow(number)
                    torch.autograd.backward(self._loss.logits(), direction, retain_graph=number < len(found) - 1)
                removed.append(projection.removed.sum(dim=1).numpy())
                square.append(projection.square.sum(dim=1).numpy())
                moved.append(projection.moved.transpose(0, 1).flatten(1).numpy())
                units.append(count)
                self._step()
        contributions = Contributions(np.stack(removed), np.stack(square), np.array(units, dtype=float))
        return contributions, np.concatenate(moved, axis=1)

    def _directions(self, batch: Any, generator: torch.Generator) -> list[Tensor]:
        kind = self._settings.likelihood or likelihood_of(self._model, batch)
        if kind == "none":
            return []
        counted = self._counted(batch) if self._counted else positions_that_matter(self._model, batch)
        return directions(self._loss.logits(), kind, self._settings.directions, counted, generator)


def _without_change(solved: Solved) -> Solved:
    return replace(solved, change=solved.change.new_empty(0))
