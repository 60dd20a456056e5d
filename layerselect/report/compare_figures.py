"""The figures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .figures import COLOURS, STYLE, svg_text

_GREY = "#94a3b8"
_COLUMNS = 4

Curve = tuple[Sequence[float], Sequence[float]]


def learning_curves(curves: Mapping[str, Sequence[Curve]], reference: str | None, name: str) -> str:
    """What was evaluated over the steps, one panel for each method, the reference in grey behind it.

    Args:
        curves: for each method, the ``(steps, values)`` of each seed.
        reference: the method that is drawn in every panel.
        name: of the values.
    """
    names = list(curves)
    rows = max(1, -(-len(names) // _COLUMNS))
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 0.5 + 1.75 * rows), layout="constrained")
        panels = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
        for panel, method in zip(panels, names, strict=False):
            if reference is not None and reference != method:
                _draw(panel, curves[reference], _GREY, 0.8)
            _draw(panel, curves[method], COLOURS[0], 1.3)
            panel.set_title(method, fontsize=8.5, loc="left", color="#334155")
            panel.grid(axis="y", color="#e2e8f0", lw=0.6)
            panel.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        for panel in panels[len(names) :]:
            panel.set_axis_off()
        panels[0].set_ylim(bottom=0)
        figure.supxlabel("step", fontsize=9, color="#334155")
        figure.supylabel(name, fontsize=9, color="#334155")
        return svg_text(figure)


def quality_against_time(
    points: Mapping[str, tuple[float, float, float, float]], baselines: Mapping[str, float], heading: str
) -> str:
    """Quality over seconds per step, with spreads; the baselines as lines.

    Args:
        points: for each method, seconds and their deviation, quality and its deviation.
        baselines: quality of each baseline.
        heading: what the quality is.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, max(4.0, 0.8 + 0.24 * len(points))), layout="constrained")
        axes = figure.add_subplot()
        for number, (seconds, spread, quality, deviation) in enumerate(points.values()):
            axes.errorbar(
                seconds,
                quality,
                xerr=spread or None,
                yerr=deviation or None,
                fmt="o",
                ms=5,
                lw=0.8,
                color=COLOURS[number % len(COLOURS)],
                alpha=0.85,
            )
        bottom, top = axes.get_ylim()
        # A baseline far below all methods would press them together: it is only named.
        below = {name: quality for name, quality in baselines.items() if quality < bottom - (top - bottom) / 2}
        for name, quality in baselines.items():
            if name not in below:
                axes.axhline(quality, color=_GREY, lw=0.8, ls="--")
                axes.annotate(
                    name,
                    (0.0, quality),
                    xycoords=("axes fraction", "data"),
                    xytext=(4, 3),
                    textcoords="offset points",
                    fontsize=8,
                    color="#64748b",
                )
        if below:
            text = "below: " + ", ".join(f"{name} {quality:.3g}" for name, quality in below.items())
            axes.annotate(
                text,
                (0.0, 0.0),
                xycoords="axes fraction",
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=8,
                color="#64748b",
            )
        axes.set(xlabel="seconds per step", ylabel=heading)
        axes.set_xlim(left=0)
        axes.grid(color="#e2e8f0", lw=0.6)
        _names_beside(axes, {name: (point[0], point[2]) for name, point in points.items()})
        return svg_text(figure)


def _names_beside(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Writes the points' names in a column on the right, in the order of their height, each joined to its point:
    methods are so alike that names beside their points would cover one another.
    """
    bottom, top = axes.get_ylim()
    order = sorted(points, key=lambda name: points[name][1])
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(points)}
    for place, height in zip(order, spread_out([points[n][1] for n in order], bottom, top), strict=True):
        axes.annotate(
            place,
            points[place],
            xytext=(1.02, (height - bottom) / (top - bottom)),
            textcoords="axes fraction",
            fontsize=8,
            va="center",
            color=colours[place],
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "lw": 0.5,
                "color": colours[place],
                "alpha": 0.6,
                "shrinkA": 0,
                "shrinkB": 3,
            },
        )


def spread_out(heights: Sequence[float], bottom: float, top: float) -> list[float]:
    """Moves ascending heights as little as need be, so that neighbours are 6 % of the whole range apart, or as far as n
    of them can be, and all lie inside of it.
    """
    if not heights:
        return []
    gap = (top - bottom) * min(0.06, 1 / len(heights))
    moved, lowest = [], bottom + gap / 2
    for height in heights:
        moved.append(max(height, lowest))
        lowest = moved[-1] + gap
    highest = top - gap / 2
    for number in reversed(range(len(moved))):
        moved[number] = min(moved[number], highest)
        highest = moved[number] - gap
    return moved


def _draw(panel: object, seeds: Sequence[Curve], colour: str, width: float) -> None:
    """The mean over seeds, and the band from the lowest to the highest, at the steps that all seeds have."""
    common = sorted(set.intersection(*(set(steps) for steps, _ in seeds))) if seeds else []
    if not common:
        return
    values = np.array([[dict(zip(steps, quality, strict=True))[step] for step in common] for steps, quality in seeds])
    panel.plot(common, values.mean(axis=0), color=colour, lw=width, marker="o", ms=2)  # type: ignore[attr-defined]
    if len(values) > 1:
        panel.fill_between(  # type: ignore[attr-defined]
            common, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0
        )
