"""The rows of a comparison: qualities and costs with their spreads, and a verdict against the reference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...metrics.enough import too_few_steps
from .cells import Cells, complete
from .comparison import NOT_FINISHED, Comparison, Part
from .config import CompareConfig
from .counts import Truth
from .kept import KeptRun
from .methods import Run, Variant
from .tasks import ALONE, MODEL, STEPS_TO_95
from .verdicts import AS_GOOD, UNDECIDED, Difference, differences

#: What a row is that nobody trained.
BASELINE = "baseline"


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds (0 for a single one)."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
        return cls(statistics.mean(numbers), deviation, len(numbers))

    def text(self, digits: int, plus_minus: str = " ± ") -> str:
        mean = f"{self.mean:,.{digits}f}"
        return mean if self.deviation == 0 else f"{mean}{plus_minus}{self.deviation:,.{digits}f}"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: of the method and its adapter, or of a baseline.
        what: one line about it.
        values: by the keys of the task's columns; a key is absent where the row has no such number.
        seeds: how many seeds are in it, with all of the folds that it has.
        failures: the reasons of the runs that failed.
        missing: how many runs are not finished.
        difference: of the tested quality against the reference; ``None`` for the reference itself.
        verdict: ``better``, ``worse``, ``as good`` or ``undecided``; empty where nothing is compared.
        unclear: why nothing can be said of the difference; empty where something can.
    """

    name: str
    what: str
    values: Mapping[str, Spread]
    seeds: int
    failures: tuple[str, ...] = ()
    missing: int = 0
    difference: Difference | None = None
    verdict: str = ""
    unclear: str = ""

    def sentence(self, reference: str, margin: float, digits: int = 3) -> str:
        """The verdict in words, with what it rests on."""
        if self.difference is None:
            return ""
        if self.unclear:
            return f"{UNDECIDED}: {self.unclear}"
        found = {
            AS_GOOD: f"as good as {reference} within {margin:g}",
            UNDECIDED: f"{UNDECIDED} against {reference}",
        }.get(self.verdict, f"{self.verdict} than {reference}")
        d = self.difference
        low, high, of = (d.equal_low, d.equal_high, "90%") if self.verdict == AS_GOOD else (d.low, d.high, "95%")
        return f"{found} ({d.mean:+.{digits}f}, {of} {low:+.{digits}f} to {high:+.{digits}f})"


def measured_rows(comparison: Comparison) -> list[Row]:
    """The rows with what was measured, and without verdicts: baselines first, then the methods in their order."""
    runs = _runs(comparison)
    return [*_baselines(comparison, runs), *(_method(comparison, variant, own) for variant, own in runs.items())]


def comparison_rows(comparison: Comparison) -> list[Row]:
    """The rows with their verdicts."""
    config, runs, rows = comparison.config, _runs(comparison), measured_rows(comparison)
    reference = config.reference_variant
    if reference is None or not runs[reference]:
        return rows
    cells, found = Cells(comparison), {}
    theirs = cells.of_runs(runs[reference])
    for name in next(iter(comparison.baselines.values())):
        found[name] = cells.paired(cells.of_baseline(name, theirs), theirs)
    for variant in runs:
        if variant != reference:
            found[variant.name] = cells.paired(cells.of_runs(runs[variant]), theirs)
    paired = {name: pair for name, pair in found.items() if pair is not None}
    steps = {
        variant.name: min(run.training.get("steps") or 0 for run in own.values())
        for variant, own in runs.items()
        if own
    }
    judge = _Judge(config, rows, reference.name, steps)
    several = differences(paired, config.kind.counts.quality, samples=config.bootstrap)
    return [judge(row, several[row.name]) if row.name in several else row for row in rows]


def _runs(comparison: Comparison) -> dict[Variant, dict[Part, KeptRun]]:
    return {variant: comparison.finished(variant) for variant in comparison.config.variants}


class _Judge:
    """Says what the difference of a row from the reference allows to conclude."""

    def __init__(self, config: CompareConfig, rows: Sequence[Row], reference: str, steps: Mapping[str, int]) -> None:
        self._config, self._steps, self._fewest = config, steps, steps[reference]
        key = config.kind.tested[0]
        quality = {row.name: row.values[key].mean for row in rows if key in row.values}
        self._quality, self._reference, self._idle = quality, quality.get(reference), quality.get(config.kind.idle)

    def __call__(self, row: Row, difference: Difference) -> Row:
        unclear = self._unclear(row, difference)
        verdict = UNDECIDED if unclear else difference.verdict(self._config.within)
        return replace(row, difference=difference, verdict=verdict, unclear=unclear)

    def _unclear(self, row: Row, difference: Difference) -> str:
        """Why runs are too little to say anything of their difference; empty where they are not."""
        if difference.seeds < 2:
            return "one seed is too few to compare"
        if few := too_few_steps(min(self._steps.get(row.name, self._fewest), self._fewest)):
            return few
        known = [each for each in (self._quality.get(row.name), self._reference) if each is not None]
        if self._idle is not None and known and max(known) <= self._idle:
            return f"neither has learned more than the {self._config.kind.idle}"
        return ""


def _method(comparison: Comparison, variant: Variant, runs: Mapping[Part, KeptRun]) -> Row:
    parts = complete(runs)
    mine = [result for result in comparison.results if result.run.variant == variant]
    return Row(
        variant.name,
        variant.method.what,
        _values(comparison, runs, parts),
        len({seed for seed, _ in parts}),
        tuple(f"{_where(result.run)}: {result.reason}" for result in mine if result in comparison.failed),
        sum(result.reason == NOT_FINISHED for result in mine),
    )


def _where(run: Run) -> str:
    return f"seed {run.seed}" + (f", fold {run.fold}" if run.fold else "")


def _values(comparison: Comparison, runs: Mapping[Part, KeptRun], parts: Sequence[Part]) -> dict[str, Spread]:
    """Qualities over the seeds that have all folds; costs over all runs."""
    task, split = comparison.config.kind, comparison.split
    by_seed = {
        seed: _pooled(
            comparison,
            {fold: runs[seed, fold].reports[split][MODEL] for each, fold in parts if each == seed},
            {fold: runs[seed, fold].statistics[split] for each, fold in parts if each == seed},
        )
        for seed in dict.fromkeys(seed for seed, _ in parts)
    }
    values = {}
    for key, _, _ in task.columns if runs else ():
        numbers: list[float | None]
        if key in task.is_quality:
            numbers = [qualities.get(key) for qualities in by_seed.values()]  # earlier releases lack some
        elif key == STEPS_TO_95:
            numbers = [steps_to(0.95, run) for run in runs.values()]
        else:
            numbers = [run.training.get(key) for run in runs.values()]
        known = [number for number in numbers if number is not None and math.isfinite(number)]
        if known:
            values[key] = Spread.of(known)
    return values


def _pooled(
    comparison: Comparison,
    reports: Mapping[int | None, Mapping[str, float | None]],
    rows: Mapping[int | None, np.ndarray],
) -> dict[str, float | None]:
    """The qualities on the examples of several folds together: those that can be computed of what is kept, else the
    means of the folds' own by their numbers of examples.
    """
    task, split = comparison.config.kind, comparison.split
    if set(reports) == {None} and reports[None]:
        return dict(reports[None])
    sizes = {fold: len(comparison.examples[fold][split]) for fold in reports}
    found: dict[str, float | None] = {}
    for key in task.is_quality:
        known = {fold: value for fold, report in reports.items() if (value := report.get(key)) is not None}
        whole = sum(sizes[fold] for fold in known)
        found[key] = sum(value * sizes[fold] / whole for fold, value in known.items()) if known else None
    if rows and set(rows) == set(reports):
        truth = Truth.joined([comparison.examples[fold][split] for fold in rows])
        width = min(each.shape[1] for each in rows.values())  # earlier releases kept less of an example
        found |= task.counts.pooled(np.concatenate([each[:, :width] for each in rows.values()]), truth)
    return found


def _baselines(comparison: Comparison, runs: Mapping[Variant, Mapping[Part, KeptRun]]) -> list[Row]:
    """The baselines look at no seed, so any run of a fold has them; some are measured in one run only, and of some
    nothing but the predictions is kept.
    """
    task, split = comparison.config.kind, comparison.split
    reports: dict[str, dict[int | None, Mapping[str, float | None]]] = {}
    for own in runs.values():
        for (_, fold), run in own.items():
            said = {name: report for name, report in run.reports[split].items() if name not in (MODEL, ALONE)}
            for name in (*said, *comparison.baselines[fold]):
                by_fold = reports.setdefault(name, {})
                by_fold[fold] = by_fold.get(fold) or said.get(name, {})
    rows = []
    for name, by_fold in reports.items():
        kept = {fold: comparison.baselines[fold].get(name, {}).get(split) for fold in by_fold}
        known = {fold: values for fold, values in kept.items() if values is not None}
        qualities = _pooled(comparison, by_fold, known)
        values = {key: Spread(value, 0.0, 1) for key in task.is_quality if (value := qualities.get(key)) is not None}
        rows.append(Row(name, BASELINE, values, 1))
    return rows


def steps_to(share: float, run: KeptRun) -> int | None:
    """The first step at which an evaluation during training reached ``share`` of the run's best one."""
    best = max(run.values, default=0.0)
    return next((step for step, value in zip(run.steps, run.values, strict=True) if value >= share * best), None)
