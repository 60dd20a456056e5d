"""Sums of squares, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_CHUNK = 1 << 20  # elements widened to float64 at a time
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def sqnorm(tensor: Tensor | None, name: str) -> Tensor:
    """Sum of squares as a float64 scalar (float32 where the device has no float64)."""
    if tensor is None:
        return torch.zeros((), dtype=torch.float64)
    if tensor.layout != torch.strided:
        raise ValueError(
            f"{name} has layout {tensor.layout}; norms are taken of dense (strided) gradients only: use "
            f"sparse=False in the embedding it comes from"
        )
    if tensor.dtype not in _DTYPES:
        raise ValueError(
            f"{name} has dtype {tensor.dtype}; norms are taken of float32, float16, bfloat16 and float64 tensors only"
        )
    wide = torch.float32 if tensor.device.type == "mps" else torch.float64
    total = torch.zeros((), dtype=wide, device=tensor.device)
    for chunk in tensor.detach().reshape(-1).split(_CHUNK):
        chunk = chunk.to(wide)
        total += torch.dot(chunk, chunk)
    return total


def segment_sqnorm(
    tensors: Sequence[Tensor | None], segments: Tensor, num_segments: int, inv_scale: float | None = None
) -> Tensor:
    """See :func:`layerselect.ops.segment_sqnorm`."""
    if segments.dtype != torch.int64 or segments.dim() != 1:
        raise ValueError(
            f"segments has dtype {segments.dtype} and {segments.dim()} dimensions; it must be an int64 vector"
        )
    if segments.numel() != len(tensors):
        raise ValueError(
            f"segments has {segments.numel()} entries for {len(tensors)} tensors; give one segment for each"
        )
    if num_segments < 0:
        raise ValueError(f"num_segments is {num_segments}; it must not be negative")
    sums = torch.zeros(num_segments, dtype=torch.float64)
    for i, (tensor, segment) in enumerate(zip(tensors, segments.tolist(), strict=True)):
        if not 0 <= segment < num_segments:
            raise ValueError(f"segments[{i}] is {segment}; it must be in 0..{num_segments - 1}")
        sums[segment] += sqnorm(tensor, f"tensors[{i}]").to("cpu", torch.float64)
    if inv_scale is not None:
        sums *= inv_scale * inv_scale
    return sums
