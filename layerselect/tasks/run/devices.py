"""The device that a run asks for."""

from __future__ import annotations

import torch

from ...errors import LayerSelectError


def resolve_device(device: str) -> str:
    """``auto`` is CUDA where there is any.

    Raises:
        LayerSelectError: CUDA is asked for and torch has no such device.
    """
    check_device(device)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def check_device(device: str) -> None:
    """Raises ``LayerSelectError`` unless torch has the device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise LayerSelectError(
            "--device cuda: this machine has no CUDA device that torch can use; see 'layerselect doctor'"
        )
