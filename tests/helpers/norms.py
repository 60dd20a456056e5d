"""The norms of a model's layers in float64, from the gradients that its parameters hold."""

from __future__ import annotations

import math

from layerselect import FastSelector
from torch import nn


def gradient_norms(selector: FastSelector, model: nn.Module) -> list[float]:
    """The layers' norms, in float64, from the gradients as they stand."""
    parameters = dict(model.named_parameters())
    return [
        math.sqrt(
            math.fsum(
                float(p.grad.double().square().sum())
                for name, p in parameters.items()
                if name.startswith(layer + ".") and p.grad is not None
            )
        )
        for layer in selector.layer_names
    ]
