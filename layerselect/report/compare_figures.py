"""The figures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .drawing import AXIS, BLUE, COLOURS, MARKERS, QUIET, TEXT, Width, drawn, short
from .numbers import plural, score, seconds

Curve = tuple[Sequence[float], Sequence[float]]


def learning_curves(curves: Mapping[str, Sequence[Curve]], reference: str | None, name: str) -> str:
    """What was evaluated over the steps, one panel for each method, the reference in grey behind it.

    Args:
        curves: for each method, the ``(steps, values)`` of each seed.
        reference: the method that is drawn in every panel.
        name: of the values.
    """
    names = list(curves)

    def columns(width: Width) -> int:
        return min(len(names), 2 if width.narrow else 4)

    def rows(width: Width) -> int:
        return -(-len(names) // columns(width))

    def draw(figure: Figure, width: Width) -> None:
        shape = (rows(width), columns(width))
        panels = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
        for panel, method in zip(panels, names, strict=False):
            if reference is not None and reference != method:
                _draw(panel, curves[reference], AXIS, 1.0)
            _draw(panel, curves[method], BLUE, 1.6)
            panel.set_title(short(method, 20 if width.narrow else 26))
            panel.grid(axis="y")
            panel.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        for panel in panels[len(names) :]:
            panel.set_axis_off()
        panels[0].set_ylim(bottom=0)
        panels[0].set_xlim(left=0)
        figure.supxlabel("step", fontsize=12.5, color=TEXT)
        figure.supylabel(name, fontsize=12.5, color=TEXT)

    return drawn(
        f"Learning curves, {name} over the steps, of {plural(len(names), 'method')}: {', '.join(names)}."
        + (f" {reference} is drawn in grey behind each other one." if reference in curves and len(names) > 1 else ""),
        draw,
        lambda width: 50 + 165 * rows(width),
    )


def quality_against_time(
    points: Mapping[str, tuple[float, float, float, float]],
    baselines: Mapping[str, float],
    heading: str,
    digits: int,
    clock: str,
) -> str:
    """Quality over seconds per step, with spreads; the baselines as lines.

    Args:
        points: for each method, seconds and their deviation, quality and its deviation.
        baselines: quality of each baseline.
        heading: what the quality is.
        digits: of the quality.
        clock: which time it is.
    """

    def draw(figure: Figure, width: Width) -> None:
        axes = figure.add_subplot()
        for number, (name, (time, spread, quality, deviation)) in enumerate(points.items()):
            axes.errorbar(
                time,
                quality,
                xerr=spread or None,
                yerr=deviation or None,
                fmt=MARKERS[number % len(MARKERS)],
                ms=7,
                lw=1.2,
                color=COLOURS[number % len(COLOURS)],
                alpha=0.9,
                label=short(name, 44),
            )
        _baselines(axes, baselines, digits, 40 if width.narrow else 90)
        axes.set(xlabel=clock, ylabel=heading)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(4 if width.narrow else 8))
        axes.grid()
        if width.narrow:
            # Beside the points there is no room for names: they stand under the drawing, with the points' marks.
            figure.legend(loc="outside lower left", ncols=1, borderaxespad=0.3, handletextpad=0.2)
        else:
            _names_beside(axes, {name: (point[0], point[2]) for name, point in points.items()})

    listed = (f"{name} {seconds(time)} and {score(quality, digits)}" for name, (time, _, quality, _) in points.items())
    return drawn(
        f"{heading} over the time of a step: {', '.join(listed)}."
        + "".join(f" {name}: {score(quality, digits)}." for name, quality in baselines.items()),
        draw,
        lambda width: 300 + 19 * len(points) if width.narrow else max(360, 60 + 22 * len(points)),
    )


def _baselines(axes: Axes, baselines: Mapping[str, float], digits: int, room: int) -> None:
    """A line for each baseline. One far below all methods would press them together: it is only named."""
    bottom, top = axes.get_ylim()
    below = {name: quality for name, quality in baselines.items() if quality < bottom - (top - bottom) / 2}
    for name, quality in baselines.items():
        if name not in below:
            axes.axhline(quality, color=AXIS, lw=1, ls="--")
            _note(axes, short(name, room), ("axes fraction", "data"), (0.0, quality))
    for number, (name, quality) in enumerate(below.items()):
        text = f"below: {short(name, room - 14)} {score(quality, digits)}"
        _note(axes, text, ("axes fraction", "axes fraction"), (0.0, 0.0), 16 * number)


def _note(axes: Axes, text: str, where: tuple[str, str], place: tuple[float, float], above: int = 0) -> None:
    offset = {"xytext": (5, 4 + above), "textcoords": "offset points"}
    axes.annotate(text, place, xycoords=where, color=QUIET, **offset)  # type: ignore[arg-type]


def _names_beside(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Writes the points' names in a column on the right, in the order of their height, each joined to its point:
    methods are so alike that names beside their points would cover one another.
    """
    bottom, top = axes.get_ylim()
    order = sorted(points, key=lambda name: points[name][1])
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(points)}
    for place, height in zip(order, spread_out([points[n][1] for n in order], bottom, top), strict=True):
        axes.annotate(
            short(place, 32),
            points[place],
            xytext=(1.02, (height - bottom) / (top - bottom)),
            textcoords="axes fraction",
            va="center",
            color=TEXT,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "lw": 0.8,
                "color": colours[place],
                "alpha": 0.7,
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


def _draw(panel: Axes, seeds: Sequence[Curve], colour: str, width: float) -> None:
    """The mean over seeds, and the band from the lowest to the highest, at the steps that all seeds have."""
    common = sorted(set.intersection(*(set(steps) for steps, _ in seeds))) if seeds else []
    if not common:
        return
    values = np.array([[dict(zip(steps, quality, strict=True))[step] for step in common] for steps, quality in seeds])
    panel.plot(common, values.mean(axis=0), color=colour, lw=width, marker="o", ms=4)
    if len(values) > 1:
        panel.fill_between(common, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)
