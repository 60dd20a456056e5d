"""The ring of rows on the device in which a history is recorded, and its copies on the host."""

from __future__ import annotations

import torch
from torch import Tensor

from ..utils.mirror import Arrival

#: The columns of a row, with the types of their numbers.
COLUMNS = {
    "step": torch.int64,
    "scores": torch.float32,
    "mask": torch.bool,
    "trained": torch.bool,
    "threshold": torch.float32,
}


class RingCopy:
    """A copy of a ring that is on its way to the host."""

    def __init__(self, ring: dict[str, Tensor]) -> None:
        device = ring["step"].device
        self._columns = {
            name: torch.empty_like(column, device="cpu", pin_memory=device.type == "cuda").copy_(
                column, non_blocking=True
            )
            for name, column in ring.items()
        }
        self._arrived = Arrival(device) if device.type == "cuda" else None
        if self._arrived is not None:
            self._arrived.mark(device)

    def columns(self) -> dict[str, Tensor]:
        """The copy; waits until it has arrived."""
        if self._arrived is not None:
            self._arrived.wait()
        return self._columns


def new_ring(num_layers: int, device: torch.device, rows: int = 512) -> dict[str, Tensor]:
    """A ring for ``num_layers`` layers, by column."""
    return {
        name: torch.zeros((rows,) if name in ("step", "threshold") else (rows, num_layers), dtype=dtype, device=device)
        for name, dtype in COLUMNS.items()
    }
