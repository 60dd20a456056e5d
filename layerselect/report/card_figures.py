"""The figures of a Layer Card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..card import LayerCard, Placement
from .figures import COLOURS, STYLE, svg_text

_GREY = "#94a3b8"
_GRID = "#e2e8f0"


def strength_bars(card: LayerCard) -> str:
    """Resnorm of each layer: on fresh batches with its interval, and on those that were fitted to."""
    return _alone(_draw_strength, card, 2.6)


def feature_bars(card: LayerCard) -> str:
    """Gradient norm, activation energy and condition over depth."""
    return _alone(_draw_features, card, 2.3, columns=3)


def cost_bars(card: LayerCard) -> str:
    """Time of each layer, or its arithmetic where no time was measured, and the bytes kept for the backward pass."""
    return _alone(_draw_costs, card, 2.3, columns=2)


def coupling_matrix(card: LayerCard) -> str:
    """How much every two layers do the same."""
    return _alone(_draw_coupling, card, 4.6)


def quality_cost_front(card: LayerCard, marked: Sequence[tuple[str, Placement]]) -> str:
    """Gain over cost of all placements that no other one beats in both; some of them marked by a letter."""
    return _alone(lambda axes, card: _draw_front(axes, card, marked), card, 3.4)


def write_png(path: Path, card: LayerCard) -> None:
    """All figures in one picture."""
    with rc_context({**STYLE, "font.size": 8}):
        figure = Figure(figsize=(11.0, 9.6), layout="constrained")
        grid = figure.add_gridspec(4, 6, height_ratios=[1.1, 0.9, 0.9, 1.9])
        _draw_strength([figure.add_subplot(grid[0, :])], card)
        _draw_features([figure.add_subplot(grid[1, 2 * i : 2 * i + 2]) for i in range(3)], card)
        _draw_costs([figure.add_subplot(grid[2, 3 * i : 3 * i + 3]) for i in range(2)], card)
        _draw_coupling([figure.add_subplot(grid[3, :3])], card)
        _draw_front([figure.add_subplot(grid[3, 3:])], card, [])
        figure.suptitle(f"Layer Card: {card.model.get('source', card.model['class'])}", fontsize=11, color="#0f172a")
        figure.savefig(path, format="png", dpi=130, metadata={"Software": None})


def _alone(draw: Callable[[Sequence[Any], LayerCard], None], card: LayerCard, height: float, columns: int = 1) -> str:
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, height), layout="constrained")
        draw(list(figure.subplots(1, columns, squeeze=False).ravel()), card)
        return svg_text(figure)


def _draw_strength(panels: Sequence[Any], card: LayerCard) -> None:
    (axes,) = panels
    places, fresh = np.arange(len(card.layers)), card.fresh
    axes.bar(places, fresh, color=COLOURS[0], width=0.72, label="on fresh batches" if card.held_out else "resnorm")
    if card.layers[0].low is not None:
        ends = np.array([[layer.fresh - layer.low, layer.high - layer.fresh] for layer in card.layers]).T
        axes.errorbar(places, fresh, yerr=ends, fmt="none", ecolor="#0f172a", elinewidth=0.8, capsize=2)
    axes.plot(
        places, [layer.resnorm for layer in card.layers], "o", ms=3, color=COLOURS[1], label="on the fitted batches"
    )
    axes.axhline(0, color=_GREY, lw=0.8)
    axes.set_title("resnorm, with 95 % intervals over batches", fontsize=9, loc="left", color="#334155")
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1)
    _over_depth(axes, card)


def _draw_features(panels: Sequence[Any], card: LayerCard) -> None:
    shown = (
        ("gradient norm", [layer.gradient_norm for layer in card.layers]),
        ("activation energy", [layer.energy for layer in card.layers]),
        ("condition of the features", [layer.condition or np.nan for layer in card.layers]),
    )
    for axes, (title, values), colour in zip(panels, shown, COLOURS[2:], strict=False):
        axes.bar(range(len(values)), values, color=colour, width=0.72)
        known = [value for value in values if np.isfinite(value) and value > 0]
        if known and max(known) > 30 * min(known):
            axes.set_yscale("log")
        axes.set_title(title, fontsize=9, loc="left", color="#334155")
        _over_depth(axes, card)


def _draw_costs(panels: Sequence[Any], card: LayerCard) -> None:
    left, right = panels
    costs, places = [layer.cost for layer in card.layers], range(len(card.layers))
    if costs[0].forward_ms is not None:
        forward = [cost.forward_ms for cost in costs]
        left.bar(places, forward, color=COLOURS[0], width=0.72, label="forward")
        left.bar(
            places, [cost.backward_ms for cost in costs], bottom=forward, color=COLOURS[1], width=0.72, label="backward"
        )
        left.set_title("milliseconds, one batch", fontsize=9, loc="left", color="#334155")
        left.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1)
    else:
        left.bar(places, [cost.flops / 1e9 for cost in costs], color=COLOURS[0], width=0.72)
        left.set_title("GFLOP, forward, one batch", fontsize=9, loc="left", color="#334155")
    if costs[0].saved_bytes is not None:
        right.bar(places, [cost.saved_bytes / 1e6 for cost in costs], color=COLOURS[3], width=0.72)
        right.set_title("MB kept for the backward pass, one batch", fontsize=9, loc="left", color="#334155")
    else:
        right.bar(places, [cost.adapter_parameters / 1e3 for cost in costs], color=COLOURS[3], width=0.72)
        right.set_title("thousand adapter parameters", fontsize=9, loc="left", color="#334155")
    for axes in panels:
        _over_depth(axes, card)


def _draw_coupling(panels: Sequence[Any], card: LayerCard) -> None:
    (axes,) = panels
    axes.set_title("coupling", fontsize=9, loc="left", color="#334155")
    if card.coupling is None:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", color="#64748b", transform=axes.transAxes)
        axes.set_axis_off()
        return
    picture = axes.imshow(card.coupling, vmin=-1, vmax=1, cmap="RdBu_r", origin="lower", interpolation="nearest")
    # Beside the square itself: an axes of its own would stand at the other end of the page.
    axes.figure.colorbar(picture, cax=axes.inset_axes((1.03, 0.0, 0.04, 1.0)))
    axes.set(xlabel="layer", ylabel="layer", anchor="W")
    axes.spines[:].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=12))


def _draw_front(panels: Sequence[Any], card: LayerCard, marked: Sequence[tuple[str, Placement]]) -> None:
    (axes,) = panels
    front = card.placer().front()
    axes.step([p.cost for p in front], [p.gain for p in front], where="post", color=COLOURS[0], lw=1.2)
    axes.plot([p.cost for p in front], [p.gain for p in front], "o", ms=3, color=COLOURS[0])
    if len(front) <= 16 and not marked:
        for placement in front:
            axes.annotate(
                f"{len(placement.layers)}",
                (placement.cost, placement.gain),
                xytext=(3, -9),
                textcoords="offset points",
                fontsize=7,
                color="#64748b",
            )
    together: dict[tuple[float, float], str] = {}
    for letter, placement in marked:
        place = (placement.cost, placement.gain)
        together[place] = f"{together[place]}, {letter}" if place in together else letter
    for (cost, gain), letters in together.items():
        axes.plot(cost, gain, "o", ms=7, mfc="none", mec=COLOURS[1])
        axes.annotate(
            letters,
            (cost, gain),
            xytext=(-4, 7),
            textcoords="offset points",
            fontsize=9,
            color=COLOURS[1],
            ha="right",
        )
    axes.set(xlabel="cost of a step, all layers = 1", ylabel="share of the gain of all layers", ylim=(0, 1.08))
    axes.set_title("best gain for each cost", fontsize=9, loc="left", color="#334155")
    axes.grid(color=_GRID, lw=0.6)


def _over_depth(axes: Any, card: LayerCard) -> None:
    axes.set_xlabel("layer")
    axes.set_xlim(-0.7, len(card.layers) - 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=_GRID, lw=0.6)
    axes.set_axisbelow(True)
