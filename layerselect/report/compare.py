"""The page of a comparison: table, verdicts, curves, and where each method trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics import EditReport
from .edits import INTENTION_HEADS, edit_heads, lines_by_kind, lines_of_texts
from .numbers import bests
from .page import page_environment, svg
from .selection import SelectionShares, lacking
from .state_cache import cache_sentence

if TYPE_CHECKING:
    from .verdict_figure import Compared


@dataclass(frozen=True)
class MethodRun:
    """Where one run of a method trained.

    Attributes:
        what: one line about the method.
        facts: of the training, by name.
        history: ``step`` [n], ``scores`` [n, L], ``mask`` [n, L], ``trained`` [n, L] if it is known.
    """

    name: str
    what: str
    seed: int
    facts: Mapping[str, Any]
    history: Mapping[str, np.ndarray]
    layer_names: Sequence[str]


@dataclass(frozen=True)
class CompareReport:
    """What the page shows.

    Attributes:
        settings: what all runs share, by name.
        reference: the row against which the others are tested; ``""``: none.
        margin: within which two rows are as good.
        columns: key, heading and number of digits of each column.
        digits: of the tested quality.
        about_baselines: what the baselines are.
        rows: as :class:`layerselect.tasks.compare.Row`.
        differences: of the rows that are compared with the reference and have a verdict.
        where: what the quality is measured on.
        quality_columns: keys of those columns that hold a quality; of them the best values are bold.
        notes: how to read the table.
        curve: what the learning curves show.
        curves: for each method, steps and values of each run.
        quality: the heading of the tested quality.
        clock: which time a step's is.
        points: for each method, mean and deviation of a step's time, and of the tested quality.
        baselines: the tested quality of each baseline.
        maps: a run of each method.
        not_better: the columns of quality in which more is not better.
        edits: what each row's revisions changed; empty for other tasks.
        edits_by_intention: the same for each intention.
    """

    settings: Mapping[str, Any]
    split: str
    seeds: int
    reference: str
    margin: float
    columns: Sequence[tuple[str, str, int]]
    digits: int
    about_baselines: str
    rows: Sequence[Any]
    differences: Sequence[Compared]
    where: str
    quality_columns: Sequence[str]
    notes: Sequence[str]
    curve: str
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]
    quality: str
    clock: str
    points: Mapping[str, tuple[float, float, float, float]]
    baselines: Mapping[str, float]
    maps: Sequence[MethodRun]
    not_better: Sequence[str] = ()
    edits: Mapping[str, EditReport] = field(default_factory=dict)
    edits_by_intention: Mapping[str, Mapping[str, EditReport]] = field(default_factory=dict)


def write_compare_report(path: Path, report: CompareReport) -> None:
    """Writes the page to ``path``, whole or not at all.

    Raises:
        LayerSelectError: jinja2 or matplotlib is not installed.
    """
    aside = path.with_name(path.name + ".new")
    aside.write_text(render(report), encoding="utf-8")
    aside.replace(path)


def render(report: CompareReport) -> str:
    """The page of a comparison as text."""
    environment = page_environment()
    from .compare_figures import learning_curves, quality_against_time
    from .verdict_figure import differences_figure

    curves, points = report.curves, report.points
    name = report.reference if report.reference in curves else None
    return environment.get_template("compare.html.j2").render(
        **{
            **vars(report),
            "differences": svg(
                differences_figure(report.differences, report.margin, report.reference, report.quality, report.digits)
            )
            if report.differences
            else "",
            "curves": svg(learning_curves(curves, name, report.curve)) if curves else "",
            "quality": svg(quality_against_time(points, report.baselines, report.quality, report.digits, report.clock))
            if points
            else "",
            "maps": [_map(run) for run in report.maps],
            "best": _best(report),
            "edit_heads": edit_heads(),
            "edits": {report.split: lines} if (lines := lines_by_kind(report.edits)) else {},
            "intention_heads": INTENTION_HEADS,
            "edit_intentions": [(report.split, *line) for line in lines_of_texts(report.edits_by_intention)],
        }
    )


def _best(report: CompareReport) -> dict[str, list[bool]]:
    """For each column of quality, which rows hold its best value; all of them where several are written alike."""
    found = {}
    for key, _, digits in report.columns:
        if key in report.quality_columns:
            ranked = key not in report.not_better
            means = (row.values[key].mean if ranked and key in row.values else None for row in report.rows)
            found[key] = bests(means, digits)
    return found


def _map(run: MethodRun) -> dict[str, Any]:
    """The layer heat map of a run, and what stands beside it."""
    from .heat_map import heat_map, legend

    return {
        "name": run.name,
        "what": run.what,
        "seed": run.seed,
        "facts": run.facts,
        "state_cache": cache_sentence(run.facts),
        "shares": SelectionShares.of(run.history).sentence(),
        "lacking": lacking(run.history),
        "legend": legend(run.history),
        "map": svg(heat_map(run.history, run.layer_names)),
    }
