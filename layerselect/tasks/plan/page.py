"""The page of a plan."""

from __future__ import annotations

from pathlib import Path

from ...report.plan import PlanReport, write_plan_report
from .plan import Plan
from .words import cells, columns_of, headline, held, notes, unit_of


def write_plan_page(path: Path, plan: Plan) -> None:
    """Writes the page to ``path``, whole or not at all.

    Raises:
        LayerSelectError: jinja2 or matplotlib is not installed.
    """
    from ...report.plan_figure import Bar  # needs matplotlib, which write_plan_report says

    columns, unit = columns_of(plan), unit_of(plan)
    bars: dict[str, list[Bar]] = {}
    for row in plan.rows:
        bar = Bar(row.way, row.weights, row.gradients + row.optimizer, row.activations, row.peak)
        bars.setdefault(held(row), []).append(bar)
    lines = []
    for row in plan.rows:
        texts = cells(row, unit, plan.settings.steps)
        lines.append(([texts[column.key] for column in columns], row.fits))
    report = PlanReport(
        plan.settings.model,
        headline(plan),
        [(column.heading, column.text) for column in columns],
        unit,
        lines,
        bars,
        plan.settings.memory,
        notes(plan),
    )
    write_plan_report(path, report)
