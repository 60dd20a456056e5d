"""What was measured and chosen, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .mirror import Arrival

_COLUMNS = {
    "step": torch.int64,
    "scores": torch.float32,
    "mask": torch.bool,
    "trained": torch.bool,
    "threshold": torch.float32,
}


class History:
    """A ring of rows on the device, copied to the host now and then without waiting.

    Row = step modulo the number of rows. Recording writes device memory that was allocated once. When half of the ring is
    new, a copy of all of it starts towards pinned memory; it is looked at when the next one is due, hundreds of
    steps later. One row holds, for L layers: the step (int64), the scores (float32 [L], a frozen layer's last one),
    the mask (bool [L]), which layers took gradients in the step (bool [L]) and the threshold (float32).

    Args:
        layer_names: the L layers.
        device: of the ring.
        ring: the ring, if someone else writes its rows, by column.
    """

    def __init__(self, layer_names: list[str], device: torch.device, ring: dict[str, Tensor] | None = None) -> None:
        self._layer_names = layer_names
        self._ring = _new_ring(len(layer_names), device) if ring is None else ring
        self._ring["step"].fill_(-1)  # no row is written
        self._capacity = len(self._ring["step"])
        self._blocks: dict[str, list[Tensor]] = {name: [] for name in _COLUMNS}
        self._last = -1  # the last step that is on the host
        self._unseen = 0  # rows since the last copy was started
        self._copy: _Copy | None = None

    def __len__(self) -> int:
        """The number of recorded steps; this waits for the device."""
        return len(self.state_dict()["step"])

    def record(self, *, step: int, scores: Tensor, mask: Tensor, trained: Tensor, threshold: Tensor) -> None:
        self.expect()
        row = step % self._capacity
        self._ring["step"][row] = step
        self._ring["scores"][row] = scores
        self._ring["mask"][row] = mask
        self._ring["trained"][row] = trained
        self._ring["threshold"][row] = threshold

    def expect(self) -> None:
        """Makes room for a row that is about to be written."""
        if self._unseen == self._capacity // 2:
            self._absorb(self._copy)
            self._copy = _Copy(self._ring)
            self._unseen = 0
        self._unseen += 1

    def arrays(self) -> dict[str, np.ndarray]:
        """Host copies of all rows (the call waits for the device).

        Returns:
            ``step`` int64 [n], ``scores`` float32 [n, L], ``mask`` bool [n, L], ``trained`` bool [n, L] (which
            layers took gradients), ``threshold`` float32 [n].
        """
        return {name: column.numpy() for name, column in self.state_dict().items()}

    def to_pandas(self) -> Any:
        """One row per step and layer: ``step, layer, name, score, selected, trained, threshold``.

        Raises:
            ModuleNotFoundError: pandas is not installed (``pip install 'layerselect[data]'``).
        """
        import pandas as pd

        rows = self.arrays()
        steps, layers = rows["scores"].shape
        return pd.DataFrame(
            {
                "step": np.repeat(rows["step"], layers),
                "layer": np.tile(np.arange(layers), steps),
                "name": np.tile(np.asarray(self._layer_names, dtype=object), steps),
                "score": rows["scores"].ravel(),
                "selected": rows["mask"].ravel(),
                "trained": rows["trained"].ravel(),
                "threshold": np.repeat(rows["threshold"], layers),
            }
        )

    def plot(self, ax: Any = None) -> Any:
        """Draws the scores as a layer-by-step heat map, the selection marked; returns the matplotlib axes.

        Raises:
            ModuleNotFoundError: matplotlib is not installed (``pip install 'layerselect[report]'``).
        """
        import matplotlib.pyplot as plt

        rows = self.arrays()
        if ax is None:
            _, ax = plt.subplots(figsize=(9, 0.28 * len(self._layer_names) + 1.5), layout="constrained")
        scores = np.where(rows["scores"] > 0, rows["scores"], np.nan)
        image = ax.imshow(np.log10(scores.T), aspect="auto", origin="lower", interpolation="nearest", cmap="viridis")
        ax.figure.colorbar(image, ax=ax, label="log10 of the score")
        # Unselected cells are veiled: the selection shows as the bright part.
        veil = np.zeros((*scores.T.shape, 4))
        veil[..., :3] = 1.0
        veil[..., 3] = np.where(rows["mask"].T, 0.0, 0.6)
        ax.imshow(veil, aspect="auto", origin="lower", interpolation="nearest")
        ax.set(xlabel="step", ylabel="layer", title="Score of each layer; selected layers in full colour")
        return ax

    def state_dict(self) -> dict[str, Tensor]:
        """All rows by column, on the host; this waits for the device."""
        self._absorb(self._copy)
        self._absorb(_Copy(self._ring))
        self._copy = None
        self._unseen = 0
        empty = {name: column[:0].cpu() for name, column in self._ring.items()}
        return {name: torch.cat([empty[name], *self._blocks[name]]) for name in _COLUMNS}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._blocks = {name: [state[name].cpu().to(dtype).clone()] for name, dtype in _COLUMNS.items()}
        self._last = int(state["step"][-1]) if len(state["step"]) else -1
        self._ring["step"].fill_(-1)
        self._copy, self._unseen = None, 0

    def _absorb(self, copy: _Copy | None) -> None:
        """Takes the rows of a copy that are new here."""
        if copy is None:
            return
        columns = copy.columns()
        order = columns["step"].argsort()
        new = order[columns["step"][order] > self._last]
        if len(new):
            for name, column in columns.items():
                self._blocks[name].append(column[new])
            self._last = int(columns["step"][new[-1]])


class _Copy:
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


def _new_ring(num_layers: int, device: torch.device, rows: int = 512) -> dict[str, Tensor]:
    return {
        name: torch.zeros((rows,) if name in ("step", "threshold") else (rows, num_layers), dtype=dtype, device=device)
        for name, dtype in _COLUMNS.items()
    }
