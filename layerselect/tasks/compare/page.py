"""What the page of a comparison shows."""

from __future__ import annotations

from collections.abc import Sequence

from ...report.compare import CompareReport, MethodRun
from ...report.verdict_figure import Compared
from .comparison import Comparison
from .edits import edits_of_rows
from .rows import Row
from .runs import RUNS, is_finished, read_run
from .table import notes, tested_on, used_columns


def compare_report(comparison: Comparison, rows: Sequence[Row]) -> CompareReport:
    """The comparison as its page takes it.

    Args:
        rows: those of its table.
    """
    reference = comparison.config.reference_variant
    task = comparison.config.kind
    tested, heading, digits = task.tested
    # On a device the processor only launches; elsewhere its time tells more than the clock's.
    on_cpu = all(result.training.get("device") == "cpu" for result in comparison.results if not result.reason)
    clock = "processor_seconds_per_step" if on_cpu else "seconds_per_step"
    edits = edits_of_rows(comparison)
    return CompareReport(
        settings=comparison.config.fixed(),
        split=comparison.split,
        seeds=comparison.config.seeds,
        reference=reference.name if reference else "",
        margin=comparison.config.within,
        columns=used_columns(task, rows),
        digits=digits,
        about_baselines=task.baselines,
        rows=rows,
        differences=[
            Compared(row.name, d.mean, (d.low, d.high), (d.equal_low, d.equal_high), row.verdict)
            for row in rows
            if (d := row.difference) is not None and not row.unclear
        ],
        where=tested_on(comparison),
        quality_columns=[key for key, _, _ in task.quality],
        not_better=task.not_better,
        notes=notes(comparison, rows),
        curve=task.curve[1],
        curves=_curves(comparison),
        quality=heading,
        clock="seconds of the processor per step" if on_cpu else "seconds per step",
        points={
            row.name: (*_pair(row, clock), *_pair(row, tested)) for row in rows if {clock, tested} <= set(row.values)
        },
        baselines={row.name: row.values[tested].mean for row in rows if row.what == "baseline"},
        maps=_first_runs(comparison),
        edits={name: each.whole for name, each in edits.items()},
        edits_by_intention={name: each.by_intention for name, each in edits.items()},
    )


def _pair(row: Row, key: str) -> tuple[float, float]:
    return row.values[key].mean, row.values[key].deviation


def _curves(comparison: Comparison) -> dict[str, list[tuple[list[float], list[float]]]]:
    curves: dict[str, list[tuple[list[float], list[float]]]] = {}
    for result in comparison.results:
        if result.steps:
            curves.setdefault(result.run.variant.name, []).append((list(result.steps), list(result.values)))
    return curves


def _first_runs(comparison: Comparison) -> list[MethodRun]:
    """For each method, the first of its runs whose folder is there."""
    first: dict[str, MethodRun] = {}
    for result in comparison.results:
        run, folder = result.run, comparison.folder / RUNS / result.run.name
        if result.reason is None and run.variant.name not in first and is_finished(folder):
            files = read_run(run, folder)
            if files.reason is None and len(files.history["step"]):
                what = run.variant.method.what
                first[run.variant.name] = MethodRun(
                    run.variant.name, what, run.seed, files.training, files.history, files.layer_names
                )
    return list(first.values())
