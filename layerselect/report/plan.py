"""The page of a plan: what each way of training takes of a card, as bars and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.folders import new_file
from .page import page_environment

if TYPE_CHECKING:
    from .plan_figure import Bar


@dataclass(frozen=True)
class PlanReport:
    """What the page shows.

    Attributes:
        model: its name.
        headline: what the table is of.
        headings: of the columns; whether each holds words.
        unit: of the sizes in the table.
        lines: the texts of the rows, and whether a row fits (``None``: no card is named).
        bars: of the rows, by how the weights are held.
        memory: of the card, in bytes, if one is named.
        notes: how to read the table.
    """

    model: str
    headline: str
    headings: Sequence[tuple[str, bool]]
    unit: str
    lines: Sequence[tuple[Sequence[str], bool | None]]
    bars: Mapping[str, Sequence[Bar]]
    memory: int | None
    notes: Sequence[str]


def write_plan_report(path: Path, report: PlanReport) -> None:
    """Writes the page to ``path``, whole or not at all.

    Raises:
        LayerSelectError: jinja2 or matplotlib is not installed.
    """
    text = render(report)
    with new_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def render(report: PlanReport) -> str:
    """The page.

    Raises:
        LayerSelectError: jinja2 or matplotlib is not installed.
    """
    template = page_environment().get_template("plan.html.j2")
    from markupsafe import Markup

    from .plan_figure import bars_figure

    # The same end for all axes, so that bars of one drawing can be held against those of another.
    end = 1.05 * max([*(bar.peak for bars in report.bars.values() for bar in bars), report.memory or 0])
    figures = [(held, Markup(bars_figure(bars, report.memory, held, end))) for held, bars in report.bars.items()]
    return template.render(report=report, figures=figures)
