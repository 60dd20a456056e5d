"""What a card was measured on: a model and its data, told apart from others by a few characters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.find import clean_name
from ..utils.linear_kind import elements
from .losses import tensors

_SAMPLES = 256  # values of each parameter, evenly spread


def model_facts(model: nn.Module) -> dict[str, Any]:
    """The class, the number of parameters, and a fingerprint over names, shapes, types and a sample of the values of
    all parameters. Where a model was read from and what wraps it does not matter.
    """
    digest = hashlib.sha256()
    count = 0
    for name, parameter in model.named_parameters():
        count += elements(parameter)
        digest.update(f"{clean_name(name)} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        flat = parameter.detach().reshape(-1)
        step = max(1, len(flat) // _SAMPLES)
        digest.update(_bytes(flat[::step][:_SAMPLES]))
    return {"class": type(model).__name__, "parameters": count, "fingerprint": digest.hexdigest()[:16]}


def data_fingerprint(batches: Sequence[Any]) -> str:
    """A fingerprint of all tensors of all batches, in order."""
    digest = hashlib.sha256()
    for batch in batches:
        for tensor in tensors(batch):
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
