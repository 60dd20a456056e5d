"""A small model for the tests of GradientMonitor, and what they check."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Stack(nn.Module):
    """Four small blocks and a head; group i is block i, group 4 the head."""

    def __init__(self, width: int = 8, checkpointing: str | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)) for _ in range(4)
        )
        self.head = nn.Linear(width, 1)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if self.checkpointing is None:
                x = x + block(x)
            else:
                x = x + checkpoint(block, x, use_reentrant=self.checkpointing == "reentrant")
        return self.head(x).square().mean()

    def groups(self) -> list[int]:
        return [int(name.split(".")[1]) if name.startswith("blocks") else 4 for name, _ in self.named_parameters()]


def inputs(seed: int = 0, requires_grad: bool = False) -> Tensor:
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(seed))
    return x.requires_grad_(requires_grad)


def assert_sums(monitor, parameters: Iterable[Tensor]) -> None:
    parameters = list(parameters)
    expected = [0.0 if p.grad is None else (p.grad.double() ** 2).sum().item() for p in parameters]
    assert monitor.sqnorms.tolist() == pytest.approx(expected, rel=1e-6, abs=0.0)
    assert any(expected)


def step(monitor, model: Stack, seed: int = 0) -> list[int]:
    model.zero_grad()
    model(inputs(seed)).backward()
    measured = monitor.finish()
    assert_sums(monitor, model.parameters())
    return measured
