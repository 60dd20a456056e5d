"""Rows of a history, recorded by the host or replayed by a device, and what is expected of them."""

from __future__ import annotations

import numpy as np
import torch
from layerselect.core.history import History

CPU = torch.device("cpu")
NAMES = ["a", "b", "c"]
RING = 512


def row(step: int) -> dict[str, torch.Tensor]:
    return {
        "scores": torch.tensor([step, step + 0.5, -step], dtype=torch.float32),
        "mask": torch.tensor([step % 2 == 0, True, False]),
        "trained": torch.tensor([True, step % 3 == 0, False]),
        "threshold": torch.tensor(float(step)),
    }


def record(history: History, first: int, last: int) -> None:
    for step in range(first, last):
        history.record(step=step, **row(step))


def replay(history: History, first: int, last: int) -> None:
    """The device writes its ring, and the host hears nothing."""
    for step in range(first, last):
        for name, value in {"step": torch.tensor(step), **row(step)}.items():
            history._ring[name][step % RING] = value


def check(arrays: dict[str, np.ndarray], steps: list[int]) -> None:
    assert arrays["step"].tolist() == steps
    for name in ("scores", "mask", "trained", "threshold"):
        expected = torch.stack([row(step)[name] for step in steps]).numpy()
        assert (arrays[name] == expected).all() and arrays[name].dtype == expected.dtype, name
