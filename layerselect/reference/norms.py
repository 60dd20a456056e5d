"""Sums of squares, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Elements widened to float64 and summed at a time: torch sums so few on one thread, in one order, so that the same
# tensors give the same bits however many threads there are.
_CHUNK = 32768
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def _sqnorm(tensor: Tensor, name: str) -> Tensor:
    """Sum of squares as a float64 scalar on the tensor's device (float32 where that has no float64)."""
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
        total += chunk.to(wide).square().sum()
    return total


def sqnorms(tensors: Sequence[Tensor | None], names: Sequence[str]) -> Tensor:
    """Sum of squares of each tensor, float64 [len(tensors)] on the CPU; ``None`` counts 0.

    Raises:
        ValueError: a tensor of another layout or dtype; the message calls it by its name in ``names``.
    """
    sums = [None if t is None else _sqnorm(t, name) for t, name in zip(tensors, names, strict=True)]
    result = torch.zeros(len(sums), dtype=torch.float64)
    for device in {s.device for s in sums if s is not None}:  # one copy for each device, not for each tensor
        here = {i: s for i, s in enumerate(sums) if s is not None and s.device == device}
        result[list(here)] = torch.stack(list(here.values())).to("cpu", torch.float64)
    return result


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
    for i, segment in enumerate(segments.tolist()):
        if not 0 <= segment < num_segments:
            raise ValueError(f"segments[{i}] is {segment}; it must be in 0..{num_segments - 1}")
    sums = [0.0] * num_segments
    each = sqnorms(tensors, [f"tensors[{i}]" for i in range(len(tensors))])
    for segment, value in zip(segments.tolist(), each.tolist(), strict=True):
        sums[segment] += value
    scale = 1.0 if inv_scale is None else inv_scale
    return torch.tensor(sums, dtype=torch.float64) * (scale * scale)
