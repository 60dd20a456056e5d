"""Performance: by how much the loss on held-out batches falls when one layer alone is adapted for a few steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.model_hooks import ModelHook
from .maps import LinearMap

LossOf = Callable[[Any], tuple[Tensor, int]]

#: The optimizers that a layer can be adapted by, with the learning rate of each where none is given.
RATES = {"adamw": 1e-3, "sgd": 0.1}


def performance(
    maps: Sequence[Sequence[LinearMap]],
    loss: LossOf,
    fit: Sequence[Any],
    check: Sequence[Any],
    *,
    steps: int,
    rank: int,
    lr: float,
    optimizer: str = "adamw",
    seed: int = 0,
    done: Callable[[int], None] = lambda layer: None,
) -> list[float]:
    """The mean loss on ``check`` before, less that after, for each layer.

    Each layer gets a LoRA of its own on all its maps (scale 1, its second factor zero at first), trained on the batches
    of ``fit`` in turn while everything else stays as it is, and taken off again.

    Args:
        maps: of each layer. The model is frozen and in evaluation mode.
        loss: the sum of a batch's losses, and how many they are.
        optimizer: ``adamw`` (without decay) or ``sgd`` (without momentum).
        done: told of each layer that is finished.
    """
    before = _mean(loss, check)
    falls = []
    for layer, own in enumerate(maps):
        with adapted(own, rank, seed) as parameters:
            stepped = _optimizer(optimizer, parameters, lr)
            for step in range(steps):
                total, count = loss(fit[step % len(fit)])
                (total / count).backward()
                stepped.step()
                stepped.zero_grad()
            falls.append(before - _mean(loss, check))
        done(layer)
    return falls


def _optimizer(name: str, parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr)
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)


@contextmanager
def adapted(maps: Sequence[LinearMap], rank: int, seed: int) -> Iterator[list[nn.Parameter]]:
    """The parameters of a LoRA on ``maps``, which is there inside the block: of each map the factor that is drawn, then
    the one that is zero at first.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters, handles = [], []
    for linear in maps:
        weight = next(linear.module.parameters())
        size = min(rank, linear.inputs, linear.outputs)
        drawn = torch.randn(linear.inputs, size, generator=generator) / linear.inputs**0.5
        dtype = torch.promote_types(weight.dtype, torch.float32) if weight.is_floating_point() else torch.float32
        down = nn.Parameter(drawn.to(weight.device, dtype))
        up = nn.Parameter(torch.zeros(size, linear.outputs, device=weight.device, dtype=dtype))
        parameters += [down, up]
        handles.append(linear.module.register_forward_hook(ModelHook(partial(_add, down, up))))
    try:
        yield parameters
    finally:
        for handle in handles:
            handle.remove()


def _add(down: Tensor, up: Tensor, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    changed: Tensor = output + ((args[0].to(down.dtype) @ down) @ up).to(output.dtype)
    return changed


@torch.no_grad()
def _mean(loss: LossOf, batches: Sequence[Any]) -> float:
    total = count = 0.0
    for batch in batches:
        value, number = loss(batch)
        total, count = total + float(value), count + number
    return total / count
