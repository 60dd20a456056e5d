"""The figures of a Layer Card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ..card import LayerCard, Placement
from ..card.recommend import why_none
from .drawing import AXIS, BLUE, COLOURS, ORANGE, QUIET, STRONG, STYLE, Width, drawn, log_scale, short, write_ticks
from .numbers import number, plural, share

#: The picture in a file has the size of a printed page.
_PRINTED = {"font.size": 8, "axes.titlesize": 9, "legend.fontsize": 8, "figure.facecolor": "white"}


def strength_bars(card: LayerCard) -> str:
    """Resnorm of each layer: on fresh batches with its interval, and on those that were fitted to."""
    return _alone(_draw_strength, card, 260, f"Bars: the resnorm of each layer. {_extremes(card.fresh.tolist())}")


def feature_bars(card: LayerCard) -> str:
    """Gradient norm, activation energy and condition over depth."""
    words = " ".join(f"{title}: {_extremes(values)}" for title, values in _features(card))
    return _alone(_draw_features, card, 230, f"Bars for each layer. {words}", columns=3)


def cost_bars(card: LayerCard) -> str:
    """Time of each layer, or its arithmetic where no time was measured, and the bytes kept for the backward pass."""
    (title, *parts), (other, more) = _times(card), _memory(card)
    totals = [sum(values) for values in zip(*(values for _, values in parts), strict=True)]
    words = f"{title}: {_extremes(totals)} {other}: {_extremes(more)}"
    return _alone(_draw_costs, card, 230, f"Bars: what each layer costs. {words}", columns=2)


def coupling_matrix(card: LayerCard) -> str:
    """How much every two layers do the same."""
    words = f"Matrix: how much every two of {plural(len(card.layers), 'layer')} do the same, from -1 to 1."
    if card.coupling is not None and len(card.layers) > 1:
        pairs = np.array(card.coupling)
        np.fill_diagonal(pairs, -2.0)
        one, other = np.unravel_index(int(pairs.argmax()), pairs.shape)
        words += f" Layers {min(one, other)} and {max(one, other)} most of all: {pairs.max():.2f}."
    return _alone(_draw_coupling, card, 420, words)


def quality_cost_front(card: LayerCard, marked: Sequence[tuple[str, Placement]]) -> str:
    """Gain over cost of all placements that no other one beats in both; some of them marked by a letter."""
    words = "The best share of the gain for each cost of a step. Marked: " + (
        ", ".join(f"{letter}, {share(p.gain)} of the gain at {share(p.cost)} of the cost" for letter, p in marked)
        or "nothing"
    )
    return _alone(lambda axes, card: _draw_front(axes, card, marked), card, 320, f"{words}.")


def write_png(path: Path, card: LayerCard) -> None:
    """All figures in one picture."""
    with rc_context({**STYLE, **_PRINTED}):
        figure = Figure(figsize=(11.0, 9.6), layout="constrained")
        grid = figure.add_gridspec(4, 6, height_ratios=[1.1, 0.9, 0.9, 1.9])
        _draw_strength([figure.add_subplot(grid[0, :])], card)
        _draw_features([figure.add_subplot(grid[1, 2 * i : 2 * i + 2]) for i in range(3)], card)
        _draw_costs([figure.add_subplot(grid[2, 3 * i : 3 * i + 3]) for i in range(2)], card)
        _draw_coupling([figure.add_subplot(grid[3, :3])], card)
        if not why_none(card):
            _draw_front([figure.add_subplot(grid[3, 3:])], card, [])
        write_ticks(figure)
        title = short(f"Layer Card: {card.model.get('source', card.model['class'])}", 110)
        figure.suptitle(title, fontsize=11, color=STRONG)
        figure.savefig(path, format="png", dpi=130, metadata={"Software": None})


def _alone(
    draw: Callable[[Sequence[Any], LayerCard], None], card: LayerCard, height: int, label: str, columns: int = 1
) -> str:
    """One figure of the page; on a narrow one, panels stand under each other."""

    def put(figure: Figure, width: Width) -> None:
        shape = (columns, 1) if width.narrow else (1, columns)
        draw(list(figure.subplots(*shape, squeeze=False).ravel()), card)

    return drawn(label, put, lambda width: (height - 30) * columns + 30 if width.narrow else height)


def _extremes(values: Sequence[float]) -> str:
    """Where over depth the largest and the smallest value lie."""
    known = [(value, layer) for layer, value in enumerate(values) if np.isfinite(value)]
    if not known:
        return "not measured."
    (low, first), (high, last) = min(known), max(known)
    return f"most in layer {last}, {number(float(high))}, least in layer {first}, {number(float(low))}."


def _draw_strength(panels: Sequence[Any], card: LayerCard) -> None:
    (axes,) = panels
    places, fresh = np.arange(len(card.layers)), card.fresh
    axes.bar(places, fresh, color=BLUE, width=0.72, label="on fresh batches" if card.held_out else "resnorm")
    if card.layers[0].low is not None:
        ends = np.array([[layer.fresh - layer.low, layer.high - layer.fresh] for layer in card.layers]).T
        axes.errorbar(places, fresh, yerr=ends, fmt="none", ecolor=STRONG, elinewidth=1, capsize=2)
    axes.plot(places, [layer.resnorm for layer in card.layers], "o", ms=4, color=ORANGE, label="on the fitted batches")
    axes.axhline(0, color=AXIS, lw=0.8)
    axes.set_title("resnorm, 95% intervals" if card.layers[0].low is not None else "resnorm")
    axes.legend(loc="best")
    _over_depth(axes, card)


def _features(card: LayerCard) -> list[tuple[str, list[float]]]:
    return [
        ("gradient norm", [layer.gradient_norm for layer in card.layers]),
        ("activation energy", [layer.energy for layer in card.layers]),
        ("condition of the features", [layer.condition or np.nan for layer in card.layers]),
    ]


def _draw_features(panels: Sequence[Any], card: LayerCard) -> None:
    for axes, (title, values), colour in zip(panels, _features(card), COLOURS[2:], strict=False):
        axes.bar(range(len(values)), values, color=colour, width=0.72)
        known = [value for value in values if np.isfinite(value) and value > 0]
        if known and max(known) > 30 * min(known):
            log_scale(axes.yaxis, axes.set_yscale)
        axes.set_title(title)
        _over_depth(axes, card)


def _times(card: LayerCard) -> list[Any]:
    """A title, and parts that stand on one another, each with its name and the layers' values."""
    costs = [layer.cost for layer in card.layers]
    if costs[0].forward_ms is None:
        return ["GFLOP, forward, one batch", ("", [cost.flops / 1e9 for cost in costs])]
    forward, backward = [cost.forward_ms for cost in costs], [cost.backward_ms for cost in costs]
    return ["milliseconds, one batch", ("forward", forward), ("backward", backward)]


def _memory(card: LayerCard) -> tuple[str, list[float]]:
    costs = [layer.cost for layer in card.layers]
    if costs[0].saved_bytes is None:
        return "thousand adapter parameters", [cost.adapter_parameters / 1e3 for cost in costs]
    return "MB kept for the backward pass, one batch", [(cost.saved_bytes or 0) / 1e6 for cost in costs]


def _draw_costs(panels: Sequence[Any], card: LayerCard) -> None:
    left, right = panels
    title, *parts = _times(card)
    bottom = np.zeros(len(card.layers))
    for (name, values), colour in zip(parts, (BLUE, ORANGE), strict=False):
        left.bar(range(len(values)), values, bottom=bottom, color=colour, width=0.72, label=name)
        bottom = bottom + np.array(values, dtype=float)
    left.set_title(title)
    if len(parts) > 1:
        left.margins(y=0.25)
        left.legend(loc="upper right", ncols=2, borderaxespad=0.1)
    title, values = _memory(card)
    right.bar(range(len(values)), values, color=COLOURS[3], width=0.72)
    right.set_title(title)
    for axes in panels:
        _over_depth(axes, card)


def _draw_coupling(panels: Sequence[Any], card: LayerCard) -> None:
    (axes,) = panels
    axes.set_title("coupling")
    if card.coupling is None:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", color=QUIET, transform=axes.transAxes)
        axes.set_axis_off()
        return
    picture = axes.imshow(card.coupling, vmin=-1, vmax=1, cmap="RdBu_r", origin="lower", interpolation="none")
    # Beside the square itself: an axes of its own would stand at the other end of the page.
    axes.figure.colorbar(picture, cax=axes.inset_axes((1.03, 0.0, 0.04, 1.0)))
    axes.set(xlabel="layer", ylabel="layer", anchor="W")
    axes.spines[:].set_visible(False)
    axes.set_xticks(_depths(card))
    axes.set_yticks(_depths(card))


def _draw_front(panels: Sequence[Any], card: LayerCard, marked: Sequence[tuple[str, Placement]]) -> None:
    (axes,) = panels
    front = card.placer().front()
    axes.step([p.cost for p in front], [p.gain for p in front], where="post", color=BLUE, lw=1.6)
    axes.plot([p.cost for p in front], [p.gain for p in front], "o", ms=4, color=BLUE)
    if len(front) <= 16 and not marked:
        for placement in front:
            axes.annotate(
                f"{len(placement.layers)}",
                (placement.cost, placement.gain),
                xytext=(4, -14),
                textcoords="offset points",
                color=QUIET,
            )
    for _, placement in marked:
        axes.plot(placement.cost, placement.gain, "o", ms=7, mfc="none", mec=ORANGE, mew=2)
    for (cost, gain), letters in _together(marked).items():
        axes.annotate(letters, (cost, gain), xytext=(-4, 7), textcoords="offset points", color=STRONG, ha="right")
    axes.set(xlabel="cost of a step, all layers = 1", ylabel="share of the gain of all layers", ylim=(0, 1.18))
    axes.set_title("best gain for each cost")
    axes.grid()


def _together(marked: Sequence[tuple[str, Placement]]) -> dict[tuple[float, float], str]:
    """Where which letters stand. Those of marks so near that they would cover one another stand as one text."""
    found: dict[tuple[float, float], str] = {}
    span = max((p.cost for _, p in marked), default=1.0) or 1.0
    for letter, placement in marked:
        place = (placement.cost, placement.gain)
        near = [(x, y) for x, y in found if abs(x - place[0]) < 0.07 * span and abs(y - place[1]) < 0.09]
        if near:
            found[near[0]] += f", {letter}"
        else:
            found[place] = letter
    return found


def _over_depth(axes: Any, card: LayerCard) -> None:
    axes.set_xlabel("layer")
    axes.set_xlim(-0.7, len(card.layers) - 0.3)
    axes.set_xticks(_depths(card))
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _depths(card: LayerCard) -> range:
    """The layers whose numbers stand at an axis."""
    return range(0, len(card.layers), max(1, -(-len(card.layers) // 14)))
