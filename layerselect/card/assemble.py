"""From what the sweeps found to a card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ..costs.counted import LayerCosts
from .card import LayerCard
from .coupling import coupling
from .figures import CostFigures, FirstGain, LayerFigures, MapFigures
from .intervals import Contributions
from .maps import LinearMap
from .memory import Survey
from .resnorm import Solved
from .settings import MeasureSettings
from .sweep import Swept


def assemble(
    found: Survey,
    swept: Sequence[Swept],
    costs: Sequence[CostFigures],
    step_costs: LayerCosts,
    settings: MeasureSettings,
    *,
    held_out: bool,
    performance: Sequence[float] | None,
    first: Sequence[Mapping[str, FirstGain]] | None,
    model: dict[str, Any],
    data: dict[str, Any],
    memory: dict[str, Any],
    dtype: str,
) -> LayerCard:
    """The card of all sweeps together."""
    count = len(found.layers.names)
    contributions = Contributions(
        np.concatenate([one.contributions.removed for one in swept], axis=1),
        np.concatenate([one.contributions.square for one in swept], axis=1),
        swept[0].contributions.units,
    )
    moved = np.concatenate([one.moved for one in swept], axis=0)
    solved = [maps for one in swept for maps in one.solved]
    fresh, interval = contributions.fresh_resnorm(), contributions.interval()
    layers = []
    for layer in range(count):
        maps = [_map(m, one, rows) for m, (one, rows) in zip(found.layers.maps[layer], solved[layer], strict=True)]
        conditions = [m.condition for m in maps if m.condition is not None]
        layers.append(
            LayerFigures(
                name=found.layers.names[layer],
                resnorm=math.hypot(*(m.resnorm for m in maps)),
                fresh=float(fresh[layer]),
                low=None if interval is None else float(interval[0][layer]),
                high=None if interval is None else float(interval[1][layer]),
                gradient_norm=math.hypot(*(m.gradient_norm for m in maps)),
                energy=sum(m.energy * m.inputs for m in maps) / sum(m.inputs for m in maps),
                condition=max(conditions, default=None),
                performance=None if performance is None else float(performance[layer]),
                cost=costs[layer],
                maps=maps,
                **({} if first is None else first[layer]),
            )
        )
    units = {"fit_units": swept[0].fit_units, "check_units": swept[0].check_units}
    return LayerCard(
        model=model,
        data={**data, **units, "coupling_samples": moved.shape[1]},
        settings={**asdict(settings), "dtype": dtype, "memory": memory},
        layers=layers,
        coupling=coupling(moved).tolist() if moved.shape[1] else None,
        held_out=held_out,
        stability=_known(contributions.stability(settings.seed)),
        step_costs=step_costs.to_dict(),
        versions=_versions(),
    )


def _map(linear: LinearMap, solved: Solved, rows: int) -> MapFigures:
    return MapFigures(
        name=linear.name,
        inputs=linear.inputs,
        outputs=linear.outputs,
        rows=rows,
        resnorm=math.sqrt(solved.resnorm_squared),
        gradient_norm=math.sqrt(solved.gradient_squared),
        energy=solved.energy,
        condition=solved.condition,
    )


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _versions() -> dict[str, str]:
    from .._version import __version__

    found = {"layerselect": __version__, "torch": torch.__version__}
    try:
        import transformers
    except ImportError:
        return found
    return {**found, "transformers": transformers.__version__}
