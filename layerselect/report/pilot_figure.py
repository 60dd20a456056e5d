"""The race of a pilot, drawn: how each candidate stood after each round, and at the end, by what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .drawing import AXIS, BAND, BLUE, COLOURS, ORANGE, QUIET, TEXT, Width, drawn, short
from .verdict_figure import Compared, differences_figure, edge_of

#: Besides the word, which stands in the drawing too.
_COLOUR = {"as good": COLOURS[2], "worse": ORANGE, "unlikely": ORANGE, "running": BLUE, "not needed": QUIET}


def race_figure(pilot: Mapping[str, Any], heading: str) -> str:
    """A panel for each candidate, the cheapest first: its difference and interval after each round, and the margin.

    Args:
        pilot: what ``pilot.json`` holds.
        heading: what the quality is.
    """
    shown = [each for each in pilot["candidates"] if each["looks"]]
    margin, rounds = pilot["margin"], pilot["rounds"]["planned"]
    edge = edge_of([_ends(each["looks"][-1]) for each in shown], margin)

    def columns(width: Width) -> int:
        return min(len(shown), 2 if width.narrow else 4)

    def rows(width: Width) -> int:
        return -(-len(shown) // max(1, columns(width)))

    def draw(figure: Figure, width: Width) -> None:
        panels = figure.subplots(rows(width), columns(width), sharex=True, sharey=True, squeeze=False).ravel()
        for panel, each in zip(panels, shown, strict=False):
            _draw(panel, each, margin, edge)
            name = short(f"{each['name']}, {each['cost']:.0%}", 18 if width.narrow else 28)
            panel.set_title(f"{name}\n{_word(each)}")
        for panel in panels[len(shown) :]:
            panel.set_axis_off()
        panels[0].set_xlim(0.5, rounds + 0.5)
        panels[0].set_ylim(-edge, edge)
        panels[0].xaxis.set_major_locator(MaxNLocator(3, integer=True))
        panels[0].yaxis.set_major_locator(MaxNLocator(4))
        figure.supxlabel("round", fontsize=12.5, color=TEXT)
        figure.supylabel("difference from all", fontsize=12.5, color=TEXT)

    listed = (f"{each['name']} {each['looks'][-1]['mean']:+.3f}, {_word(each)}" for each in shown)
    return drawn(
        f"The race by {heading}: the difference of each candidate from training all layers after each round, with its "
        f"interval; the band is the margin of {margin:g}. At the end: {'; '.join(listed)}.",
        draw,
        lambda width: 60 + 170 * rows(width),
    )


def front_figure(pilot: Mapping[str, Any], heading: str) -> str:
    """The last difference of each candidate and its interval, the cheapest first, as of the rows of a comparison."""
    rows = [
        Compared(f"{each['name']}, {each['cost']:.0%}", look["mean"], ends, ends, _word(each))
        for each in pilot["candidates"]
        for look in each["looks"][-1:]
        for ends in [_ends(look)]
    ]
    return differences_figure(rows, pilot["margin"], pilot["reference"]["name"], heading, 3)


def _word(each: Mapping[str, Any]) -> str:
    """What became of a candidate, in a word or two."""
    return "undecided" if each["state"] == "running" else str(each["state"])


def _draw(panel: Axes, each: Mapping[str, Any], margin: float, edge: float) -> None:
    panel.axhspan(-margin, edge, color=BAND, lw=0)
    panel.axhline(0, color=AXIS, lw=1)
    colour = _COLOUR[each["state"]]
    rounds = [look["round"] for look in each["looks"]]
    for look in each["looks"]:
        panel.plot(
            (look["round"], look["round"]), (max(-edge, look["low"]), min(edge, look["high"])), color=colour, lw=1.4
        )
    panel.plot(rounds, [min(edge, max(-edge, look["mean"])) for look in each["looks"]], "o-", color=colour, ms=5, lw=1)
    panel.grid(axis="y")


def _ends(look: Mapping[str, Any]) -> tuple[float, float]:
    return look["low"], look["high"]
