"""A small model that was trained with a selector, and a card: what is saved of them is broken by part_saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from layerselect import FastSelector
from layerselect.card import CostFigures, LayerCard, LayerFigures, MapFigures
from layerselect.costs.counted import LayerCosts
from torch import nn

LAYERS = 4


class Stack(nn.Module):
    """Layers with something that trains behind them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(LAYERS))
        self.head = nn.Linear(4, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            rows = layer(rows)
        return self.head(rows)


def trained(rule: str, mode: str = "observe", steps: int = 5) -> FastSelector:
    """A selector that has seen some steps."""
    selector = FastSelector(Stack(), rule, mode=mode)
    for _ in range(steps):
        step(selector)
    return selector


def step(selector: FastSelector) -> None:
    """One more."""
    selector._model.zero_grad()
    selector._model(torch.ones(3, 4)).square().sum().backward()
    selector.step()


def same(one: Any, other: Any) -> bool:
    """Whether two states are alike, NaN included."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and bool(torch.isclose(one.double(), other.double(), equal_nan=True).all())
        )
    return bool(one == other)


def card() -> LayerCard:
    """A card of four layers."""
    ones = (1.0,) * LAYERS
    return LayerCard(
        model={"class": "Made", "parameters": 7, "fingerprint": "model"},
        data={"fingerprint": "data", "batches": 6, "cost_batch": {"shapes": [[8, 9]], "device": "cpu"}},
        settings={"ridge": 1e-3, "rank": 16},
        layers=[
            LayerFigures(
                name=f"layers.{layer}",
                resnorm=1.0,
                fresh=0.5 * layer,
                low=None,
                high=0.7,
                gradient_norm=1.0,
                energy=2.0,
                condition=10.0,
                performance=None,
                cost=CostFigures(1.0, None, 1000, 4096, 64),
                maps=[MapFigures(f"layers.{layer}.map", 4, 3, 288, 1.0, 1.0, 2.0, None)],
            )
            for layer in range(LAYERS)
        ],
        coupling=np.eye(LAYERS).tolist(),
        held_out=True,
        stability=0.9,
        step_costs=LayerCosts(ones, ones, ones, rest=1.0).to_dict(),
        versions={"torch": "0"},
    )
