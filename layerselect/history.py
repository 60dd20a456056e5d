"""What was measured and chosen, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

_COLUMNS = {
    "step": torch.int64,
    "scores": torch.float32,
    "mask": torch.bool,
    "trained": torch.bool,
    "threshold": torch.float32,
}


class History:
    """A ring of rows on the device, emptied to the host only when it is full or asked for.

    Recording a row writes device memory that was allocated once. One row holds, for L layers: the step
    (int64), the scores (float32 [L], a frozen layer's last one), the mask (bool [L]), which layers
    took gradients in the step (bool [L]) and the threshold (float32).
    """

    def __init__(
        self,
        layer_names: list[str],
        device: torch.device,
        ring: dict[str, Tensor] | None = None,
        written: Callable[[], int] | None = None,
    ) -> None:
        """
        Args:
            ring: the ring, if someone else writes its rows; then row = step modulo the number of rows.
            written: says how many rows that one has written since the beginning.
        """
        self._layer_names = layer_names
        self._ring = _new_ring(len(layer_names), device) if ring is None else ring
        self._capacity = len(self._ring["step"])
        self._written = written
        self._drained: dict[str, list[Tensor]] = {name: [] for name in _COLUMNS}
        self._on_host = 0  # rows that have left the ring
        self._in_ring = 0  # rows that have not, at most

    def __len__(self) -> int:
        """The number of recorded steps. Where a device records them, this waits for it."""
        return self._on_host + self._in_ring if self._written is None else self._written()

    def record(self, *, step: int, scores: Tensor, mask: Tensor, trained: Tensor, threshold: Tensor) -> None:
        self.expect()
        row = (self._on_host + self._in_ring - 1) % self._capacity
        self._ring["step"][row] = step
        self._ring["scores"][row] = scores
        self._ring["mask"][row] = mask
        self._ring["trained"][row] = trained
        self._ring["threshold"][row] = threshold

    def expect(self) -> None:
        """Makes room for a row that is about to be written."""
        if self._in_ring == self._capacity:
            self._drain()
        self._in_ring += 1

    def arrays(self) -> dict[str, np.ndarray]:
        """Host copies of all rows (the call waits for the device).

        Returns:
            ``step`` int64 [n], ``scores`` float32 [n, L], ``mask`` bool [n, L], ``trained`` bool [n, L] (which
            layers took gradients), ``threshold`` float32 [n].
        """
        self._drain()
        return {name: self._joined(name).numpy() for name in _COLUMNS}

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
        self._drain()
        return {name: self._joined(name) for name in _COLUMNS}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._drained = {name: [state[name].cpu().to(dtype).clone()] for name, dtype in _COLUMNS.items()}
        self._on_host, self._in_ring = len(state["step"]), 0

    def _drain(self) -> None:
        count = self._in_ring if self._written is None else self._written() - self._on_host
        if count:
            rows = [(self._on_host + i) % self._capacity for i in range(count)]
            for name, column in self._ring.items():
                self._drained[name].append(column[rows].to("cpu", copy=True))
        self._on_host += count
        self._in_ring = 0

    def _joined(self, name: str) -> Tensor:
        return torch.cat([self._ring[name][:0].cpu(), *self._drained[name]])


def _new_ring(num_layers: int, device: torch.device, rows: int = 512) -> dict[str, Tensor]:
    return {
        name: torch.zeros((rows,) if name in ("step", "threshold") else (rows, num_layers), dtype=dtype, device=device)
        for name, dtype in _COLUMNS.items()
    }
