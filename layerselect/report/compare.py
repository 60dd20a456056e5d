"""The page of a comparison: table, verdicts, curves, and where each method trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..tasks.compare import Comparison, Row, used_columns
from ..tasks.compare.cells import CellResult
from ..tasks.compare.table import notes
from .page import page_environment, svg
from .selection import SelectionShares, lacking
from .trunk import trunk_sentence


def write_compare_report(path: Path, comparison: Comparison, rows: list[Row]) -> None:
    """Writes the page to ``path``, whole or not at all.

    Raises:
        LayerSelectError: jinja2 or matplotlib is not installed.
    """
    aside = path.with_name(path.name + ".new")
    aside.write_text(render(comparison, rows), encoding="utf-8")
    aside.replace(path)


def render(comparison: Comparison, rows: list[Row]) -> str:
    """The page as text."""
    environment = page_environment()
    from .compare_figures import learning_curves, quality_against_time

    reference = comparison.config.reference_variant
    name = reference.name if reference else ""
    task = comparison.config.kind
    tested, heading, digits = task.tested
    # On a device the processor only launches; elsewhere its time tells more than the clock's.
    on_cpu = all(result.training.get("device") == "cpu" for result in comparison.results if not result.reason)
    clock = "processor_seconds_per_step" if on_cpu else "seconds_per_step"
    curves = _curves(comparison, task.curve[0])
    points = {
        row.name: tuple(v for key in (clock, tested) for v in _pair(row, key))
        for row in rows
        if {clock, tested} <= set(row.values)
    }
    floors = {row.name: row.values[tested].mean for row in rows if row.what == "floor"}
    return environment.get_template("compare.html.j2").render(
        settings=comparison.config.fixed(),
        split=comparison.split,
        seeds=comparison.config.seeds,
        reference=name,
        columns=used_columns(task, rows),
        digits=digits,
        curve=task.curve[1],
        about_floors=task.floors,
        rows=rows,
        best={key: _best(rows, key) for key, _, _ in task.quality},
        notes=notes(comparison, rows),
        curves=svg(learning_curves(curves, name if name in curves else None, task.curve[1])) if curves else "",
        quality=svg(quality_against_time(points, floors, heading)) if points else "",
        maps=_maps(comparison),
    )


def _pair(row: Row, key: str) -> tuple[float, float]:
    return row.values[key].mean, row.values[key].deviation


def _best(rows: list[Row], key: str) -> str | None:
    """The method with the best mean of a quality column."""
    known = [row for row in rows if key in row.values and row.what != "floor"]
    return max(known, key=lambda row: row.values[key].mean).name if known else None


def _curves(comparison: Comparison, key: str) -> dict[str, list[tuple[list[float], list[float]]]]:
    curves: dict[str, list[tuple[list[float], list[float]]]] = {}
    for result in comparison.results:
        evaluations = [line for line in result.metrics if not line.get("final")]
        if evaluations:
            steps = [line["step"] for line in evaluations]
            curves.setdefault(result.cell.variant.name, []).append((steps, [e[key] for e in evaluations]))
    return curves


def _maps(comparison: Comparison) -> list[dict[str, Any]]:
    """For each method, the layer heat map of its first finished run."""
    from .figures import heat_map

    first: dict[str, CellResult] = {}
    for result in comparison.results:
        if result.reason is None and len(result.history["step"]):
            first.setdefault(result.cell.variant.name, result)
    return [
        {
            "name": name,
            "what": result.cell.variant.method.what,
            "seed": result.cell.seed,
            "facts": result.training,
            "trunk": trunk_sentence(result.training),
            "shares": SelectionShares.of(result.history).sentence(),
            "lacking": lacking(result.history),
            "map": svg(heat_map(result.history, result.layer_names)),
        }
        for name, result in first.items()
    ]
