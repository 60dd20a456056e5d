"""What operations of a model keep for the backward pass on a GPU, where there is none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class AsOnGPU(TorchFunctionMode):
    """Lets operations on the CPU keep for the backward pass what they keep on a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.dropout:
            return _dropout(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            # The fused kernels draw again what they drop; on the CPU dropout would take one that keeps all weights.
            kwargs = {**kwargs, "dropout_p": 0.0}
            args = args[:4]
        if func is functional.layer_norm and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **kwargs)


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or p == 0.0:
        return input
    dropped: Tensor = torch.native_dropout(input, p, True)[0]
    return dropped
