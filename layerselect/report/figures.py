"""The figures of a report, as SVG text to put into a page. No figure touches matplotlib's global state."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..errors import LayerSelectError

STYLE = {
    "svg.hashsalt": "layerselect",  # the same data gives the same bytes
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
}
COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626", "#0891b2")
#: What the evaluations of a classifier measure.
CLASSIFICATION = (("macro_f1", "macro-F1"), ("macro_auprc", "macro AUPRC"), ("accuracy", "accuracy"))
#: More columns than this would be thinner than a pixel: neighbouring steps are then averaged.
_MAX_COLUMNS = 900
#: Of selections, of those of them that trained.
_BARS = ("#bfdbfe", COLOURS[0])
#: Of a selection that took no gradient.
_IDLE = (0.86, 0.15, 0.15)
# One layer's rows in the heat map: its score on top, then whether it was selected, then a gap.
_SCORE_ROWS, _MARK_ROWS, _GAP_ROWS = 6, 3, 1


def heat_map(history: Mapping[str, np.ndarray], layer_names: Sequence[str]) -> str:
    """Scores by layer and step, the selected layers marked by a bar under their colours: black where they trained, red
    where they took no gradient.

    Args:
        history: ``step`` int64 ``[n]``, ``scores`` float32 ``[n, L]``, ``mask`` bool ``[n, L]``, and ``trained`` bool
            ``[n, L]`` (which layers took gradients) if it is known.
    """
    steps, scores, mask = history["step"], history["scores"].astype(np.float64), history["mask"]
    if not len(steps):
        raise LayerSelectError("there is no step to draw: the history is empty")
    layers = scores.shape[1]
    positive = np.where(np.isfinite(scores) & (scores > 0), scores, np.nan)
    values = _binned(np.log10(positive))
    share = _binned(mask.astype(np.float64))
    idle = _binned((mask & ~history.get("trained", mask)).astype(np.float64))
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, [1, 99]) if finite.size else (0.0, 1.0)
    norm = Normalize(low, max(high, low + 1e-6))
    image = _rows_of(values, share, norm, idle)
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.3 + layers * (0.34 if layers <= 12 else 0.2)), layout="constrained")
        axes = figure.add_subplot()
        first, last = float(steps[0]) - 0.5, float(steps[-1]) + 0.5
        axes.imshow(
            image, aspect="auto", origin="lower", interpolation="nearest", extent=(first, last, -0.5, layers - 0.5)
        )
        axes.set(xlabel="step", ylabel="layer")
        every = max(1, -(-layers // 16))
        axes.set_yticks(range(0, layers, every))
        axes.spines[:].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        mappable = _mappable(norm)
        figure.colorbar(mappable, ax=axes, label="log10 of the score", pad=0.01, aspect=24)
        return svg_text(figure)


def frequency_bars(selected: Sequence[int], steps: int, trained: Sequence[int] | None = None) -> str:
    """In which share of the steps each layer was selected (light), and selected and trained (dark)."""
    shares = [np.asarray(counts, dtype=float) / max(1, steps) for counts in (selected, trained) if counts is not None]
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.9 if trained is None else 2.2), layout="constrained")
        axes = figure.add_subplot()
        layers = range(len(shares[0]))
        for share, colour, name in zip(shares, _BARS[-len(shares) :], ("selected", "trained"), strict=False):
            axes.bar(layers, share, color=colour, width=0.72, label=name)
        if len(shares[0]) <= 16:
            texts = [" / ".join(f"{share[layer]:.0%}" for share in shares) for layer in layers]
            axes.bar_label(axes.containers[0], texts, fontsize=8 if trained is None else 7, color="#334155", padding=1)
        if trained is not None:
            axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
        axes.set(ylim=(0, 1.12), xlabel="layer", ylabel="share of steps", xlim=(-0.7, len(shares[0]) - 0.3))
        axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        axes.set_xticks(range(0, len(shares[0]), max(1, -(-len(shares[0]) // 32))))
        return svg_text(figure)


def transfer_bars(
    frequency: Sequence[int],
    shared: Sequence[int],
    own_frequency: Sequence[int],
    own: Sequence[int],
    own_steps: int | None = None,
) -> str:
    """How often each layer was chosen: by the predictor above, by the generator below; the layers of both on a light
    band.

    Args:
        frequency, shared: the predictor's counts, and the layers whose adapters were taken over.
        own_frequency, own: the generator's counts and its own choice of layers.
        own_steps: the generator's counts become shares of these steps.
    """
    counts = np.asarray(own_frequency, dtype=float)
    rows = [
        (np.asarray(frequency, dtype=float), shared, COLOURS[0], "predictor", "selections"),
        (
            100 * counts / own_steps if own_steps else counts,
            own,
            COLOURS[1],
            "generator",
            "% of steps" if own_steps else "selections",
        ),
    ]
    rows = [row for row in rows if len(row[0])]
    layers = max([len(counts) for counts, *_ in rows] + [layer + 1 for layer in (*shared, *own)])
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 0.5 + 1.35 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False).ravel()
        for panel, (counts, chosen, colour, name, unit) in zip(panels, rows, strict=True):
            for layer in set(shared) & set(own):
                panel.axvspan(layer - 0.5, layer + 0.5, color="#ede9fe", lw=0, zorder=0)
            colours = [colour if layer in set(chosen) else "#cbd5e1" for layer in range(len(counts))]
            panel.bar(range(len(counts)), counts, color=colours, width=0.72, zorder=2)
            panel.set(ylabel=unit, xlim=(-0.7, layers - 0.3))
            panel.set_title(name, fontsize=9, loc="left", color="#334155")
            panel.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        panels[-1].set_xlabel("layer")
        panels[-1].set_xticks(range(0, layers, max(1, -(-layers // 32))))
        return svg_text(figure)


def curves(
    losses: Sequence[Mapping[str, Any]],
    metrics: Sequence[Mapping[str, Any]],
    quality: Sequence[tuple[str, str]] = CLASSIFICATION,
    top: float = 1.0,
) -> str:
    """Loss beside quality over the steps: the training loss, and what each evaluation during training found.

    Args:
        quality: up to four keys of the evaluations to draw, with their names; one that no evaluation has is left out.
        top: the end of the quality's scale.
    """
    evaluations = [row for row in metrics if not row.get("final")]
    measured = [pair for pair in quality if any(pair[0] in row for row in evaluations)]
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(
            [row["step"] for row in losses],
            [row["loss"] for row in losses],
            color=COLOURS[0],
            lw=1.2,
            label="training",
        )
        if evaluations:
            left.plot(
                [row["step"] for row in evaluations],
                [row["loss"] for row in evaluations],
                color=COLOURS[1],
                marker="o",
                ms=4,
                lw=1.2,
                label=evaluations[0]["split"],
            )
        if measured:
            for (key, name), colour in zip(measured, [COLOURS[number] for number in (0, 2, 3, 1)], strict=False):
                known = [row for row in evaluations if key in row]
                right.plot(
                    [row["step"] for row in known],
                    [row[key] for row in known],
                    color=colour,
                    marker="o",
                    ms=4,
                    lw=1.2,
                    label=name,
                )
            right.legend(frameon=False, fontsize=8)
            right.set_title(f"quality on {evaluations[0]['split']}", fontsize=9, loc="left", color="#334155")
        else:
            nothing = "no quality measured during training" if evaluations else "no evaluation during training"
            right.text(0.5, 0.5, nothing, ha="center", va="center", color="#64748b", transform=right.transAxes)
        right.set_ylim(0, top)
        last = max([row["step"] for row in (*losses, *evaluations)], default=1)
        for axes in (left, right):
            axes.set_xlim(0, 1.03 * last)
        left.set_ylim(bottom=0)
        left.set_title("loss", fontsize=9, loc="left", color="#334155")
        left.legend(frameon=False, fontsize=8)
        for axes in (left, right):
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="y", color="#e2e8f0", lw=0.6)
        return svg_text(figure)


def _binned(values: np.ndarray) -> np.ndarray:
    """``[n, L]`` with neighbouring steps averaged until at most ``_MAX_COLUMNS`` are left; NaN only where all are."""
    count = len(values)
    if count <= _MAX_COLUMNS:
        return values
    edges = np.linspace(0, count, _MAX_COLUMNS + 1).astype(int)
    rows = []
    for start, end in pairwise(edges.tolist()):
        part = values[start:end]
        known = np.isfinite(part)
        total = np.where(known, part, 0.0).sum(axis=0)
        rows.append(np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan))
    return np.stack(rows)


def _rows_of(values: np.ndarray, share: np.ndarray, norm: Normalize, idle: np.ndarray | None = None) -> np.ndarray:
    """The picture, RGB uint8: for each layer, from below, a gap, the mark of its selection, its score.

    Args:
        share: of the steps of a cell in which the layer was selected.
        idle: of them, in which it was selected and took no gradient.
    """
    colours = colormaps["viridis"](norm(np.nan_to_num(values, nan=norm.vmin)))[..., :3]
    colours[~np.isfinite(values)] = 0.85  # never measured
    marks = np.repeat((1.0 - share)[..., None], 3, axis=2) * 0.95
    if idle is not None:
        marks += idle[..., None] * np.array(_IDLE)
    white = np.ones_like(colours)
    stripes = [*[white] * _GAP_ROWS, *[marks] * _MARK_ROWS, *[colours] * _SCORE_ROWS]
    picture = np.stack(stripes, axis=2)  # [n, L, stripe, rgb]
    columns, layers = values.shape
    return (picture.transpose(1, 2, 0, 3).reshape(layers * len(stripes), columns, 3) * 255).astype(np.uint8)


def _mappable(norm: Normalize) -> Any:
    from matplotlib.cm import ScalarMappable

    return ScalarMappable(norm=norm, cmap="viridis")


def svg_text(figure: Figure) -> str:
    """The figure as SVG markup that takes the width of the page it stands on."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    start = text.index("<svg")
    # The page gives the width; the drawing keeps its proportions.
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        r"\1",
        re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text[start:], count=1),
        count=1,
    )
