"""Cards with given figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from layerselect.card import CostFigures, LayerCard, LayerFigures, MapFigures
from layerselect.costs.counted import LayerCosts


def made(
    fresh: Sequence[float],
    coupling: np.ndarray | None = None,
    costs: LayerCosts | None = None,
    *,
    data: str = "data",
    prefix: str = "layers",
) -> LayerCard:
    """A card whose layers have these figures; by default nothing is coupled, and every layer costs the same."""
    count = len(fresh)
    ones = (1.0,) * count
    return LayerCard(
        model={"class": "Made", "parameters": 7, "fingerprint": "model"},
        data={
            "fingerprint": data,
            "batches": 6,
            "fit_batches": 4,
            "check_batches": 2,
            "unit": "examples",
            "fit_units": 32,
            "check_units": 16,
            "coupling_samples": 32,
            "cost_batch": {"shapes": [[8, 9]], "device": "cpu"},
        },
        settings={"ridge": 1e-3, "rank": 16, "memory": {"sweeps": 1, "statistics_bytes": 10, "peak_bytes": 20}},
        layers=[
            LayerFigures(
                name=f"{prefix}.{layer}",
                resnorm=abs(value) + 0.1,
                fresh=value,
                low=value - 0.5,
                high=value + 0.5,
                gradient_norm=1.0,
                energy=2.0,
                condition=10.0,
                performance=None,
                cost=CostFigures(1.0, 2.0, 1000, 4096, 64),
                maps=[MapFigures(f"{prefix}.{layer}.map", 4, 3, 288, abs(value) + 0.1, 1.0, 2.0, 10.0)],
            )
            for layer, value in enumerate(fresh)
        ],
        coupling=(np.eye(count) if coupling is None else coupling).tolist(),
        held_out=True,
        stability=0.9,
        step_costs=(costs or LayerCosts(ones, ones, (0.1,) * count, rest=1.0)).to_dict(),
        versions={"layerselect": "0", "torch": "0"},
    )
