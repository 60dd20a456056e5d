"""The heat map of a run: score and selection of every layer at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from ..errors import LayerSelectError
from .drawing import NARROW, STRONG, WIDE, Width, drawn
from .numbers import plural, share

#: Where more steps would make columns thinner than a pixel, neighbours are averaged.
_COLUMNS = {WIDE: 800, NARROW: 280}
#: Hatching is told from a plain colour in fields of at least about four pixels.
_FIELDS = {WIDE: 210, NARROW: 70}
#: Of a selected layer that trained, and of one that took no gradient: both stand out on a white and on a dark page.
TRAINED, IDLE = "#2f7bea", "#e06c00"
#: A layer without a score yet.
_NEVER = (0.6, 0.6, 0.6, 0.35)
#: How much of its colour a score has that was held.
_HELD = 0.6
# One layer's rows: its score on top, then whether it was selected, then a gap.
_SCORE_ROWS, _MARK_ROWS, _GAP_ROWS = 6, 3, 1
_ROWS = _SCORE_ROWS + _MARK_ROWS + _GAP_ROWS


def heat_map(history: Mapping[str, np.ndarray], layer_names: Sequence[str]) -> str:
    """Scores by layer and step. A bar under them marks the selected layers: blue where they trained, orange where they
    took no gradient. A score that was held, since the layer took no gradient in that step, is paler and hatched.

    Args:
        history: ``step`` int64 ``[n]``, ``scores`` float32 ``[n, L]``, ``mask`` bool ``[n, L]``, and ``trained`` bool
            ``[n, L]`` (which layers took gradients) if it is known.
    """
    steps, scores, mask = history["step"], history["scores"].astype(np.float64), history["mask"]
    if not len(steps):
        raise LayerSelectError("there is no step to draw: the history is empty")
    layers = scores.shape[1]
    values = np.log10(np.where(np.isfinite(scores) & (scores > 0), scores, np.nan))
    idle = (mask & ~history.get("trained", mask)).astype(np.float64)
    held = held_scores(history).astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, [1, 99]) if finite.size else (0.0, 1.0)
    norm = Normalize(low, max(high, low + 1e-6))
    first, last = float(steps[0]) - 0.5, float(steps[-1]) + 0.5

    def draw(figure: Figure, width: Width) -> None:
        axes = figure.add_subplot()
        columns = [_binned(each, _COLUMNS[width]) for each in (values, mask.astype(np.float64), idle, held)]
        picture = _rows_of(columns[0], columns[1], norm, columns[2], columns[3])
        extent = (first, last, -0.5, layers - 0.5)
        axes.imshow(picture, aspect="auto", origin="lower", interpolation="none", extent=extent)
        outlines = _outlines(_binned(held, _FIELDS[width]) > 0.5, first, last)
        if outlines is not None:
            # An edge without width: matplotlib draws a hatch in the colour of the edge.
            axes.add_patch(PathPatch(outlines, facecolor="none", edgecolor=STRONG, lw=0, hatch="////"))
        axes.set(xlabel="step", ylabel="layer")
        axes.set_yticks(range(0, layers, max(1, -(-layers // 16))))
        axes.spines[:].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(4 if width.narrow else 9, integer=True))
        mappable = ScalarMappable(norm=norm, cmap="viridis")
        where = {"location": "top", "aspect": 40} if width.narrow else {"pad": 0.01, "aspect": 24}
        bar = figure.colorbar(mappable, ax=axes, label="log10 of the score", **where)
        bar.outline.set_visible(False)
        bar.locator = MaxNLocator(5)
        bar.update_ticks()

    return drawn(
        _in_words(history, layers),
        draw,
        # Of few layers, the words beside the scale set the height.
        lambda width: max(200, (130 if width.narrow else 70) + layers * (34 if layers <= 12 else 22)),
    )


def held_scores(history: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which scores of a history are not of their step, bool ``[n, L]``: the layer took no gradient, so its last score
    stands. All false where it is not known which layers took gradients.
    """
    scores = history["scores"]
    if "trained" not in history:
        return np.zeros(scores.shape, bool)
    return np.asarray(~history["trained"] & np.isfinite(scores))


def _in_words(history: Mapping[str, np.ndarray], layers: int) -> str:
    steps, shares = history["step"], history["mask"].mean(axis=0)
    text = (
        f"Heat map of {plural(layers, 'layer')} over {plural(len(steps), 'step')}, {int(steps[0]):,} to "
        f"{int(steps[-1]):,}: the score of each layer as a colour, and under it whether the layer was selected and "
        "trained."
    )
    if layers > 1:
        most, least = int(shares.argmax()), int(shares.argmin())
        text += (
            f" Layer {most} was selected most, in {share(shares[most])} of the steps, layer {least} least, in "
            f"{share(shares[least])}."
        )
    if held_scores(history).any():
        text += " Held scores of layers without a gradient are hatched."
    return text


def _binned(values: np.ndarray, columns: int) -> np.ndarray:
    """``[n, L]`` with neighbouring steps averaged until at most ``columns`` are left; NaN only where all are."""
    count = len(values)
    if count <= columns:
        return values
    edges = np.linspace(0, count, columns + 1).astype(int)
    rows = []
    for start, end in pairwise(edges.tolist()):
        part = values[start:end]
        known = np.isfinite(part)
        total = np.where(known, part, 0.0).sum(axis=0)
        rows.append(np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan))
    return np.stack(rows)


def _rows_of(
    values: np.ndarray,
    selected: np.ndarray,
    norm: Normalize,
    idle: np.ndarray | None = None,
    held: np.ndarray | None = None,
) -> np.ndarray:
    """The picture, RGBA uint8: for each layer, from below, a gap, the mark of its selection, its score. The page shows
    through where nothing is.

    Args:
        selected: in which share of the steps of a cell the layer was selected.
        idle: in which it was selected and took no gradient.
        held: in which its score was held.
    """
    colours = colormaps["viridis"](norm(np.nan_to_num(values, nan=norm.vmin)))
    if held is not None:
        colours[..., 3] = 1 - (1 - _HELD) * held
    colours[~np.isfinite(values)] = _NEVER
    part = np.zeros_like(selected) if idle is None else idle / np.maximum(selected, 1e-9)
    marks = np.empty_like(colours)
    marks[..., :3] = part[..., None] * np.array(to_rgb(IDLE)) + (1 - part[..., None]) * np.array(to_rgb(TRAINED))
    marks[..., 3] = selected
    stripes = [*[np.zeros_like(colours)] * _GAP_ROWS, *[marks] * _MARK_ROWS, *[colours] * _SCORE_ROWS]
    picture = np.stack(stripes, axis=2)  # [n, L, stripe, rgba]
    columns, layers = values.shape
    return (picture.transpose(1, 2, 0, 3).reshape(layers * len(stripes), columns, 4) * 255).astype(np.uint8)


def _outlines(held: np.ndarray, first: float, last: float) -> Path | None:
    """The stripes of scores that were held, bool ``[fields, L]``, as outlines; ``None`` where there is none."""
    fields, layers = held.shape
    edges = np.linspace(first, last, fields + 1)
    corners: list[tuple[float, float]] = []
    for layer in range(layers):
        bottom, top = layer - 0.5 + (_MARK_ROWS + _GAP_ROWS) / _ROWS, layer + 0.5
        changes = np.diff(np.concatenate([[0], held[:, layer].astype(np.int8), [0]]))
        for start, end in zip(np.flatnonzero(changes > 0), np.flatnonzero(changes < 0), strict=True):
            left, right = edges[start], edges[end]
            corners += [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
    if not corners:
        return None
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(corners, codes * (len(corners) // 5))


def legend(history: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """What the colours of a history's heat map mean, of those that are in it: the class of a sample, and words."""
    mask, scores = history["mask"], history["scores"]
    trained = history.get("trained", mask)
    found = [
        ("score", "score, from low to high", np.isfinite(scores).any()),
        ("held", "hatched: held score, since the layer took no gradient in that step", held_scores(history).any()),
        ("never", "no score yet", (~np.isfinite(scores)).any()),
        ("trained", "selected and trained" if "trained" in history else "selected", (mask & trained).any()),
        ("idle", "selected, but without a gradient", (mask & ~trained).any()),
    ]
    return [(kind, words) for kind, words, there in found if there]
