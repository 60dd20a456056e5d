"""Optimizers around optimizers, as people write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Lookahead(torch.optim.Optimizer):
    """Slow weights behind fast ones (Zhang et al. 2019, arXiv 1907.08610); keeps the fast optimizer as the attribute
    ``place``.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, k: int = 3, place: str = "optimizer", data: bool = False
    ) -> None:
        setattr(self, place, optimizer)
        self._inner, self._k, self._count, self._data = lambda: optimizer, k, 0, data
        self.param_groups, self.defaults, self.state = optimizer.param_groups, optimizer.defaults, optimizer.state
        self._slow = {p: p.detach().clone() for group in self.param_groups for p in group["params"]}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = self._inner().step(closure)
        self._count += 1
        if self._count % self._k == 0:
            for p, slow in self._slow.items():
                slow.add_(p - slow, alpha=0.5)
                (p.data if self._data else p).copy_(slow)  # what goes through .data counts no version
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._inner().zero_grad(set_to_none)


class SharpnessAwareInTwoCalls(torch.optim.Optimizer):
    """Foret et al. 2021, arXiv 2010.01412, in its most used form."""

    def __init__(self, params: Any, base: type[torch.optim.Optimizer], rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            self.state[p]["old"] = p.detach().clone()
            p.add_(p.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            p.data = self.state[p]["old"]
        self.base_optimizer.step()
        self.zero_grad()


class Schedule:
    """No ``Optimizer``: sets the rate and steps, as the one of "Attention Is All You Need" does."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self._count = 0

    def step(self) -> None:
        self._count += 1
        for group in self.optimizer.param_groups:
            group["lr"] = 0.1 / self._count
        self.optimizer.step()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()


class Forwarding(torch.optim.Optimizer):
    """Has the step of the one inside as its own."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.wrapped = optimizer
        self.param_groups, self.defaults, self.state = optimizer.param_groups, optimizer.defaults, optimizer.state
        self.step = optimizer.step  # type: ignore[method-assign]


def moved(before: list[list[torch.Tensor]], blocks: nn.ModuleList) -> list[int]:
    """The blocks whose weights are no longer those of ``before``."""
    pairs = enumerate(zip(before, (block.parameters() for block in blocks), strict=True))
    return [i for i, (old, new) in pairs if not all(map(torch.equal, old, new))]


def weights_of(blocks: nn.ModuleList) -> list[list[torch.Tensor]]:
    return [[p.detach().clone() for p in block.parameters()] for block in blocks]
