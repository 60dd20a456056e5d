"""A model as those see it who need more of it than scores: rules, costs, the cache of hidden states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

#: What ``transformers`` calls the switch of a block whose forward pass is computed again in the backward pass.
RECOMPUTES = "gradient_checkpointing"


@dataclass(frozen=True)
class ModelView:
    """A model and its layers.

    Attributes:
        model: the module that the selector was built for.
        layer_names: qualified names of the L layers, in forward order.
        modules: the block of each layer; its forward pass is the layer's.
        parameters: for each layer, its own trainable parameters with their qualified names.
        device: where the selection is made: that of the first layer.
        takes: whether a parameter takes a gradient in the next pass. In mode ``freeze`` those of frozen layers do not,
            though they require one.
    """

    model: nn.Module
    layer_names: list[str]
    modules: list[nn.Module]
    parameters: list[list[tuple[str, nn.Parameter]]]
    device: torch.device
    takes: Callable[[nn.Parameter], bool] = lambda parameter: parameter.requires_grad
