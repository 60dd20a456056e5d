"""A history as a table, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: Laid over cells, red, green, blue, opacity: not selected, and selected without a gradient.
_VEIL, _IDLE = (1.0, 1.0, 1.0, 0.6), (0.86, 0.15, 0.15, 0.6)


def frame_of(rows: Mapping[str, np.ndarray], layer_names: Sequence[str]) -> Any:
    """A pandas table with one row per step and layer."""
    import pandas as pd

    steps, layers = rows["scores"].shape
    return pd.DataFrame(
        {
            "step": np.repeat(rows["step"], layers),
            "layer": np.tile(np.arange(layers), steps),
            "name": np.tile(np.asarray(layer_names, dtype=object), steps),
            "score": rows["scores"].ravel(),
            "selected": rows["mask"].ravel(),
            "trained": rows["trained"].ravel(),
            "threshold": np.repeat(rows["threshold"], layers),
        }
    )


def draw(rows: Mapping[str, np.ndarray], layer_names: Sequence[str], ax: Any = None) -> Any:
    """The scores as a layer-by-step heat map on matplotlib axes. Steps that the history lacks take no room."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(9, 0.28 * len(layer_names) + 1.5), layout="constrained")
    scores = np.where(rows["scores"] > 0, rows["scores"], np.nan)
    image = ax.imshow(np.log10(scores.T), aspect="auto", origin="lower", interpolation="nearest", cmap="viridis")
    ax.figure.colorbar(image, ax=ax, label="log10 of the score")
    # Unselected cells are veiled: the selection shows as the bright part.
    mask, trained = rows["mask"].T, rows["trained"].T
    veil = np.zeros((*mask.shape, 4))
    veil[~mask] = _VEIL
    veil[mask & ~trained] = _IDLE
    ax.imshow(veil, aspect="auto", origin="lower", interpolation="nearest")
    steps = rows["step"]

    def step_at(place: float, _: int) -> str:
        return str(steps[round(place)]) if 0 <= round(place) < len(steps) else ""

    ax.xaxis.set_major_formatter(step_at)
    title = "Score of each layer; selected layers in full colour"
    if (mask & ~trained).any():
        title += ", red where they took no gradient"
    ax.set(xlabel="step", ylabel="layer", title=title)
    return ax
