"""The differences of a comparison's rows from its reference, with their intervals and the margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .drawing import AXIS, BAND, BLUE, COLOURS, ORANGE, QUIET, Width, drawn, short

#: Besides the word, which stands in the drawing too.
_COLOUR = {"better": BLUE, "worse": ORANGE, "as good": COLOURS[2], "undecided": QUIET}


@dataclass(frozen=True)
class Compared:
    """A row's difference from the reference.

    Attributes:
        ends: of the interval of 95 %.
        inner: of that of 90 %, by which rows are as good.
    """

    name: str
    mean: float
    ends: tuple[float, float]
    inner: tuple[float, float]
    verdict: str


def differences_figure(rows: Sequence[Compared], margin: float, reference: str, heading: str, digits: int) -> str:
    """A point for each row, its intervals as a thin and a thick line, and the margin as a band around 0.

    A row far from all others would press them together: it is drawn as an arrow at the edge.

    Args:
        heading: what the quality is.
        digits: of the quality.
    """
    edge = edge_of([row.ends for row in rows], margin)

    def draw(figure: Figure, width: Width) -> None:
        axes = figure.add_subplot()
        axes.axvspan(-margin, margin, color=BAND, lw=0)
        axes.axvline(0, color=AXIS, lw=1)
        for place, row in enumerate(rows):
            colour = _COLOUR.get(row.verdict, QUIET)
            if abs(row.mean) > edge:
                at = edge if row.mean > 0 else -edge
                axes.annotate(
                    "", (at, place), (0.88 * at, place), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.6}
                )
            else:
                axes.plot(row.ends, (place, place), color=colour, lw=1.4)
                axes.plot(row.inner, (place, place), color=colour, lw=4, solid_capstyle="butt")
                axes.plot([row.mean], [place], "o", color=colour, ms=7)
        names = [short(row.name, 18 if width.narrow else 34) for row in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-1.05 * edge, 1.05 * edge)
        axes.xaxis.set_major_locator(MaxNLocator(3 if width.narrow else 7))
        axes.set_xlabel(f"{heading} minus that of {short(reference, 24)}")
        axes.tick_params(axis="y", length=0)
        beside = axes.secondary_yaxis("right")
        beside.set_yticks(range(len(rows)), [row.verdict for row in rows])
        beside.tick_params(axis="y", length=0)
        beside.spines["right"].set_visible(False)

    listed = (f"{row.name} {row.mean:+.{digits}f}, {row.verdict}" for row in rows)
    return drawn(
        f"Differences in {heading} from {reference}, with intervals of 95 % and of 90 %; the band is the margin of "
        f"{margin:g}: {'; '.join(listed)}.",
        draw,
        lambda width: 90 + 30 * len(rows),
    )


def edge_of(intervals: Sequence[tuple[float, float]], margin: float) -> float:
    """How far a drawing of differences goes on both sides: all intervals fit that are not far from the others."""
    reach = sorted(max(map(abs, ends)) for ends in intervals) or [0.0]
    usual = max(2 * margin, 3 * reach[len(reach) // 2])
    return max([1.5 * margin, *(each for each in reach if each <= usual)])
