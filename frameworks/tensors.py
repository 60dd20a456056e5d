"""Tensors of any kind (sharded, quantized, sparse): their norm, copies of them, and whether they hold the same bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def norm_of(gradients: list[Tensor | None]) -> float | None:
    """The norm over some gradients, whole ones where they are spread over processes; None if there are none."""
    there = [_whole(g.detach()) for g in gradients if g is not None]
    if not there:
        return None
    return math.sqrt(sum(float(g.double().square().sum()) for g in there))


def _whole(tensor: Tensor) -> Tensor:
    tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def _parts(tensor: Tensor) -> list[Tensor]:
    """The plain tensors of which a tensor is made: itself, its shard here, or those of a quantized one."""
    tensor = tensor.detach()
    if hasattr(tensor, "to_local"):
        return _parts(tensor.to_local())
    if type(tensor) not in (Tensor, nn.Parameter) and hasattr(tensor, "__tensor_flatten__"):
        return [part for name in tensor.__tensor_flatten__()[0] for part in _parts(getattr(tensor, name))]
    return [tensor]


def copies_of(tensor: Tensor) -> list[Tensor]:
    return [part.clone() for part in _parts(tensor)]


def holds_the_same(before: list[Tensor], now: Tensor, exact: bool) -> bool:
    parts = _parts(now)
    if not exact:
        return all(map(torch.allclose, before, parts))
    return len(before) == len(parts) and all(
        a.shape == b.shape and bool(torch.equal(_comparable(a), _comparable(b)))
        for a, b in zip(before, parts, strict=True)
    )


def _comparable(tensor: Tensor) -> Tensor:
    """The same bits, so that NaN equals NaN; 8-bit floats cannot be compared as such."""
    return tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor.nan_to_num()
