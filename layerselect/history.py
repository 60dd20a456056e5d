"""What was measured and chosen, step by step."""

from __future__ import annotations

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

    def __init__(self, layer_names: list[str], device: torch.device, capacity: int = 512) -> None:
        self._layer_names = layer_names
        num_layers = len(layer_names)
        self._capacity = capacity
        self._ring = {
            name: torch.zeros(
                (capacity,) if name in ("step", "threshold") else (capacity, num_layers),
                dtype=dtype,
                device=device,
            )
            for name, dtype in _COLUMNS.items()
        }
        self._filled = 0
        self._drained: dict[str, list[Tensor]] = {name: [] for name in _COLUMNS}

    def __len__(self) -> int:
        """The number of recorded steps."""
        return sum(len(block) for block in self._drained["step"]) + self._filled

    def record(self, *, step: int, scores: Tensor, mask: Tensor, trained: Tensor, threshold: Tensor) -> None:
        if self._filled == self._capacity:
            self._drain()
        row = self._filled
        self._ring["step"][row] = step
        self._ring["scores"][row] = scores
        self._ring["mask"][row] = mask
        self._ring["trained"][row] = trained
        self._ring["threshold"][row] = threshold
        self._filled += 1

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
        self._filled = 0
        self._drained = {name: [state[name].cpu().to(dtype).clone()] for name, dtype in _COLUMNS.items()}

    def _drain(self) -> None:
        if self._filled:
            for name, column in self._ring.items():
                self._drained[name].append(column[: self._filled].to("cpu", copy=True))
            self._filled = 0

    def _joined(self, name: str) -> Tensor:
        return torch.cat([self._ring[name][:0].cpu(), *self._drained[name]])
