"""What the weights of a model take, counted from shapes."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError

#: Of nf4: so many weights share a constant of 8 bits, and so many of these share one of 32.
_BLOCK, _BLOCK_OF_CONSTANTS = 64, 256
#: The tables and the mean that belong to a map's constants, in bytes.
_TABLES = 4 * (16 + 256 + 1)


class CannotQuantize(LayerSelectError):
    """A model that ``bitsandbytes`` finds no map in."""


def check_quantizes(model: nn.Module, layer_names: Sequence[str], quantize: str, source: str) -> None:
    """Checks that a model without weights has maps to hold in few bits.

    Args:
        source: what the user calls the model.

    Raises:
        CannotQuantize: it has none.
    """
    if quantize != "none" and not quantized_maps(model, layer_names, quantize):
        raise CannotQuantize(
            f"--quantize {quantize}: {source} has no linear map in its layers that transformers quantizes; use "
            "--quantize none"
        )


def weight_bytes(model: nn.Module, layer_names: Sequence[str], quantize: str = "none") -> int:
    """The bytes of all parameters and buffers, on any device; each storage counts once.

    Args:
        layer_names: qualified names of the layers in ``model``.
        quantize: ``8bit`` or ``4bit`` (nf4, its constants quantized again): how the pretrained linear maps inside the
            layers would be held by ``bitsandbytes``; ``none``: as they are.
    """
    packed = {id(m.weight): _packed(m.weight, quantize) for m in quantized_maps(model, layer_names, quantize)}
    every = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(packed.get(key, tensor.numel() * tensor.element_size()) for key, tensor in every.items())


def unpacked_bytes(model: nn.Module, layer_names: Sequence[str], quantize: str) -> int:
    """The bytes of the largest map while its weights are unpacked for a product, 0 if nothing is packed."""
    maps = quantized_maps(model, layer_names, quantize)
    return max((m.weight.numel() * m.weight.element_size() for m in maps), default=0)


def quantized_maps(model: nn.Module, layer_names: Sequence[str], quantize: str) -> list[nn.Linear]:
    """The linear maps that ``bitsandbytes`` would hold: frozen ones inside the layers."""
    if quantize == "none":
        return []
    return [
        module
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, _EightBitMap)
        and not module.weight.requires_grad
        and any(name.startswith(layer + ".") for layer in layer_names)
        and "lora_" not in name
    ]


def _packed(weight: Tensor, quantize: str) -> int:
    numbers = weight.numel()
    if quantize == "8bit":
        return numbers + 4 * weight.shape[0]
    constants = ceil(numbers / _BLOCK)
    return ceil(numbers / 2) + constants + 4 * ceil(constants / _BLOCK_OF_CONSTANTS) + _TABLES


class _KeepsInput(torch.autograd.Function):
    """A product with 8-bit weights as ``bitsandbytes`` makes it: its input is quantized, and kept as it came; in the
    backward pass the weights are unpacked.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        quantized = value.to(torch.float16).to(torch.int8)
        ctx.save_for_backward(value, weight)
        made = nn.functional.linear(value, weight.to(value.dtype), bias)
        del quantized
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        value, weight = ctx.saved_tensors
        return gradients[0].to(value.dtype) @ weight.to(value.dtype, copy=True), None, None


class _EightBitMap(nn.Linear):
    """Stands for a linear map that ``bitsandbytes`` holds in 8 bits."""

    def forward(self, input: Tensor) -> Tensor:
        made: Tensor = _KeepsInput.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return made


def keep_inputs_of(model: nn.Module, layer_names: Sequence[str]) -> None:
    """Makes the linear maps of a model without weights keep what 8-bit ones keep."""
    for module in quantized_maps(model, layer_names, "8bit"):
        module.__class__ = _EightBitMap
