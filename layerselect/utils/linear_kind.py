"""What counts as a linear map: a module that multiplies its input by its weight, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map: ``nn.Linear``, or the ``Conv1D`` of ``transformers``, which is one with the
    weight transposed.

    Some architectures make something else of ``nn.Linear``: a router that gives its choice of experts besides, a map
    that works by groups. Where one has a forward pass of its own, it is asked.
    """
    if not isinstance(module, (nn.Linear, *_conv1d())):
        return False
    own = type(module).forward is not nn.Linear.forward and type(module).__module__.startswith("transformers.models.")
    return not own or _maps(module)


def is_quantized(module: nn.Module) -> bool:
    """Whether the weight of a linear map is packed, as ``bitsandbytes`` does it: then it is no matrix of numbers, and
    takes no gradient.
    """
    return isinstance(module, nn.Linear) and not module.weight.dtype.is_floating_point


def elements(parameter: torch.Tensor) -> int:
    """How many numbers a weight is of: one that ``bitsandbytes`` holds in 4 bits has two in each byte."""
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    return parameter.numel() if shape is None else math.prod(shape)


def _maps(module: Any) -> bool:
    """Whether it gives one tensor with as many numbers as ``out_features``."""
    blank = torch.zeros(1, module.in_features, device=module.weight.device, dtype=module.weight.dtype)
    try:
        with torch.no_grad():
            found = module(blank)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return isinstance(found, torch.Tensor) and found.shape == (1, module.out_features)


def _conv1d() -> tuple[type, ...]:
    try:
        from transformers.pytorch_utils import Conv1D
    except ImportError:
        return ()
    return (Conv1D,)
