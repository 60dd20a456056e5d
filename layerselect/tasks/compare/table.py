"""The table of a comparison: one row for each method, with spreads, and a verdict against the reference."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...report.numbers import plural
from .run import Comparison
from .runs import RunResult
from .significance import Difference, holm, paired_bootstrap
from .tasks import MODEL, Column, Task

SIGNIFICANT = 0.05
#: Runs of fewer steps have learned nothing that could be compared.
_FEW_STEPS = 20


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds (0 for a single one)."""

    mean: float
    deviation: float
    count: int

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
        seeds: how many runs are in it.
        failures: the reasons of those that are not.
        difference: of the tested quality against the reference; ``None`` for the reference and for baselines.
        p: of that, corrected for the number of rows (Holm).
        unclear: why nothing can be said of the difference; empty where something can.
    """

    name: str
    what: str
    values: dict[str, Spread]
    seeds: int
    failures: tuple[str, ...] = ()
    difference: Difference | None = None
    p: float | None = None
    unclear: str = ""

    def verdict(self, reference: str, digits: int = 3) -> str:
        """What the test against the reference says, in words."""
        if self.difference is None or self.p is None:
            return ""
        if self.unclear:
            return self.unclear
        d = self.difference
        if self.p >= SIGNIFICANT:
            found = f"no difference shown to {reference}"
        else:
            found = f"{'better' if d.mean > 0 else 'worse'} than {reference}"
        return f"{found} ({d.mean:+.{digits}f}, 95% {d.low:+.{digits}f} to {d.high:+.{digits}f}, p = {self.p:.3f})"


def comparison_rows(comparison: Comparison) -> list[Row]:
    """Baselines first, then the methods in their order."""
    split, config = comparison.split, comparison.config
    reference = config.reference_variant
    done = [result for result in comparison.results if result.reason is None]
    rows = _baselines(done, split, config.kind)
    tested: list[int] = []
    for variant in config.variants:
        mine = [result for result in comparison.results if result.run.variant == variant]
        good = [result for result in mine if result.reason is None]
        difference, unclear = None, ""
        if reference is not None and variant != reference and good:
            theirs = [r for r in done if r.run.variant == reference]
            difference = _difference(good, theirs, split, config.bootstrap, config.kind)
            unclear = _unclear(good, theirs, split, config.kind) if difference is not None else ""
        if difference is not None:
            tested.append(len(rows))
        failures = tuple(f"seed {result.run.seed}: {result.reason}" for result in mine if result.reason)
        values = _values(good, split, config.kind)
        rows.append(Row(variant.name, variant.method.what, values, len(good), failures, difference, unclear=unclear))
    for index, p in zip(tested, holm([rows[i].difference.p for i in tested]), strict=True):
        rows[index] = Row(**{**rows[index].__dict__, "p": p})
    return rows


def _unclear(ours: Sequence[RunResult], theirs: Sequence[RunResult], split: str, task: Task) -> str:
    """Why runs are too little to say anything of their difference; empty where they are not."""
    if min(len(ours), len(theirs)) < 2:
        return "one seed is too few to compare"
    if min(result.training.get("steps") or 0 for result in (*ours, *theirs)) < _FEW_STEPS:
        return "too few steps to compare"
    if not any(_has_learned(result, split, task) for result in (*ours, *theirs)):
        return f"neither has learned more than the {task.idle}"
    return ""


def _has_learned(result: RunResult, split: str, task: Task) -> bool:
    """Whether a run is better than the baseline that has learned nothing; so too where that has no figure."""
    reports, key = result.reports[split], task.tested[0]
    idle = reports.get(task.idle, {}).get(key)
    return idle is None or reports[MODEL][key] > idle


def markdown_table(comparison: Comparison, rows: Sequence[Row]) -> str:
    """The table, its notes, and what failed."""
    task = comparison.config.kind
    used = used_columns(task, rows)
    reference = comparison.config.reference_variant
    name = reference.name if reference else ""
    lines = [
        "| " + " | ".join([comparison.split, *(heading for _, heading, _ in used), f"against {name}"]) + " |",
        "|---" * (len(used) + 2) + "|",
    ]
    for row in rows:
        if not row.values:
            cells = ["failed"] + [""] * (len(used) - 1)
        else:
            cells = [row.values[key].text(digits) if key in row.values else "" for key, _, digits in used]
        lines.append("| " + " | ".join([row.name, *cells, row.verdict(name, task.tested[2])]) + " |")
    lines += ["", *(f"- {note}" for note in notes(comparison, rows))]
    return "\n".join(lines) + "\n"


def notes(comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    """How to read the table, and which runs are missing from it."""
    config = comparison.config
    found = [
        f"Mean ± standard deviation over {plural(config.seeds, 'seed')}; quality on {comparison.split}.",
        "The test draws seeds and examples with replacement, the same ones for both methods; p is corrected for the "
        "number of rows (Holm), the intervals are not. With few seeds an interval is rather too narrow than too wide.",
        "CPU s per step: what the processor worked for the run; other programs on the machine weigh on it less than "
        "on s per step.",
        "Trained parameters: selected layers and what trains outside them, mean over the steps. Saved MB: what "
        "autograd keeps for the backward pass. Of a whole step, of all activations, of all optimizer memory: beside "
        "training all layers, by counted costs where nothing was measured.",
        *_TASK_NOTES[config.task],
    ]
    for row in rows:
        found += [f"{row.name} failed, {reason}" for reason in row.failures]
    return found


def csv_table(task: Task, rows: Sequence[Row]) -> str:
    """The table for programs: means and deviations in columns of their own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [f"{key}{part}" for key, _, _ in task.columns for part in ("", "_sd")]
    writer.writerow(["row", "seeds", *heads, "difference", "low", "high", "p", "failures"])
    for row in rows:
        values: list[Any] = []
        for key, _, _ in task.columns:
            spread = row.values.get(key)
            values += [spread.mean, spread.deviation] if spread else ["", ""]
        d = row.difference
        values += [d.mean, d.low, d.high, row.p] if d else [""] * 4
        writer.writerow([row.name, row.seeds, *values, "; ".join(row.failures)])
    return out.getvalue()


def steps_to(share: float, result: RunResult) -> int | None:
    """The first step at which an evaluation during training reached ``share`` of the run's best macro-F1."""
    evaluations = [line for line in result.metrics if not line.get("final")]
    best = max((line.get("macro_f1", 0.0) for line in evaluations), default=0.0)
    return next((line["step"] for line in evaluations if line.get("macro_f1", -1.0) >= share * best), None)


def used_columns(task: Task, rows: Sequence[Row]) -> list[Column]:
    """The task's columns that some row has a number for."""
    return [column for column in task.columns if any(column[0] in row.values for row in rows)]


def _values(results: Sequence[RunResult], split: str, task: Task) -> dict[str, Spread]:
    values = {}
    for key, _, _ in task.columns if results else ():
        if key in task.is_quality:
            numbers = [result.reports[split][MODEL][key] for result in results]
        elif key == "steps_to_95":
            numbers = [steps_to(0.95, result) for result in results]
        else:
            numbers = [result.training.get(key) for result in results]
        known = [number for number in numbers if number is not None]
        if known:
            values[key] = _spread(known)
    return values


def _spread(numbers: Sequence[float]) -> Spread:
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return Spread(statistics.mean(numbers), deviation, len(numbers))


def _baselines(results: Sequence[RunResult], split: str, task: Task) -> list[Row]:
    """The baselines look at no seed, so any run has them; some are measured in one run only."""
    reports = {}
    for result in results:
        for name, report in result.reports[split].items():
            if name != MODEL:
                reports.setdefault(name, report)
    return [
        Row(
            name,
            "baseline",
            {key: Spread(report[key], 0.0, 1) for key in task.is_quality if report[key] is not None},
            1,
        )
        for name, report in reports.items()
    ]


def _difference(
    ours: Sequence[RunResult], theirs: Sequence[RunResult], split: str, samples: int, task: Task
) -> Difference | None:
    by_seed = {result.run.seed: result for result in theirs}
    pairs = [(result, by_seed[result.run.seed]) for result in ours if result.run.seed in by_seed]
    if not pairs:
        return None
    return paired_bootstrap(
        len(_records(pairs[0][0], split)),
        [task.compared(_records(mine, split)) for mine, _ in pairs],
        [task.compared(_records(other, split)) for _, other in pairs],
        samples=samples,
    )


def _records(result: RunResult, split: str) -> list[dict[str, Any]]:
    """The predictions of a run in an order that all runs share."""
    return sorted(result.predictions[split], key=lambda record: record["id"])


_TASK_NOTES = {
    "intent": ["Steps to 95%: until an evaluation reached 95% of the best macro-F1 of the same run."],
    "revise": [
        "First loss: of 32 training examples before the first step, after the transfer where there is one. Last "
        "loss: mean of the last tenth of the logged training losses. r: the alignment ratio of transferred layers "
        "and the generator's own choice.",
        "Of rows that start from a predictor, the time is that of the generator alone; the predictor's run is in "
        "runs/.",
    ],
}
