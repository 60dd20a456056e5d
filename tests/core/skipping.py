"""Gradient scalers, optimizers, and the attempts of a training whose gradients are made not finite."""

from __future__ import annotations

import math

import torch
from layerselect import FastSelector
from torch import nn
from torch.amp import GradScaler


def scaler_of(scale: float = 2.0**10, **options) -> GradScaler:
    return GradScaler("cpu", init_scale=scale, growth_interval=10**6, **options)


def broken(model: nn.Module, where: str, selector: FastSelector) -> list[torch.utils.hooks.RemovableHandle]:
    """Makes a gradient not finite in the next backward pass: that of an outer parameter, or one of whatever layers
    train.
    """
    hook = {"outer": lambda g: g * math.inf, "layers": lambda g: g + math.nan}[where]
    if where == "outer":
        return [model.head.weight.register_hook(hook)]
    return [model.blocks[selector.trained()[0]][1].weight.register_hook(hook)]


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    # Whose first step, if it is skipped, leaves a momentum that nobody wrote.
    "sgd fused": lambda p: torch.optim.SGD(p, lr=1e-1, momentum=0.9, fused=True),
}
SKIPS = {0: "outer", 1: "layers", 4: "layers", 9: "layers", 10: "outer", 11: "layers", 15: "outer"}
