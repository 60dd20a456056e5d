"""The table of a comparison: one row for each method, with spreads, and a verdict against the reference."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..intent.results import MODEL
from .cells import CellResult
from .run import Comparison
from .significance import Difference, holm, paired_bootstrap

QUALITY = ("macro_f1", "macro_auprc", "accuracy")
#: Key, heading, digits.
COLUMNS = (
    ("macro_f1", "macro-F1", 3),
    ("macro_auprc", "macro AUPRC", 3),
    ("accuracy", "accuracy", 3),
    ("seconds_per_step", "s per step", 3),
    ("processor_seconds_per_step", "CPU s per step", 3),
    ("seconds", "s in all", 0),
    ("peak_memory_mb", "peak MB", 0),
    ("saved_mb", "saved MB", 1),
    ("trained_parameters", "trained parameters", 0),
    ("steps_to_95", "steps to 95 %", 0),
)
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds (0 for a single one)."""

    mean: float
    deviation: float
    count: int

    def text(self, digits: int, plus_minus: str = " ± ") -> str:
        mean = f"{self.mean:,.{digits}f}"
        return mean if self.count == 1 else f"{mean}{plus_minus}{self.deviation:,.{digits}f}"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: of the method and its adapter, or of a floor.
        what: one line about it.
        values: by the keys of :data:`COLUMNS`; a key is absent where the row has no such number.
        seeds: how many runs are in it.
        failures: the reasons of those that are not.
        difference: macro-F1 against the reference; ``None`` for the reference and for floors.
        p: of that, corrected for the number of rows (Holm).
    """

    name: str
    what: str
    values: dict[str, Spread]
    seeds: int
    failures: tuple[str, ...] = ()
    difference: Difference | None = None
    p: float | None = None

    def verdict(self, reference: str) -> str:
        """What the test against the reference says, in words."""
        if self.difference is None or self.p is None:
            return ""
        d = self.difference
        if self.p >= SIGNIFICANT:
            found = f"no difference shown to {reference}"
        else:
            found = f"{'better' if d.mean > 0 else 'worse'} than {reference}"
        return f"{found} ({d.mean:+.3f}, 95 % {d.low:+.3f} to {d.high:+.3f}, p = {self.p:.3f})"


def comparison_rows(comparison: Comparison) -> list[Row]:
    """Floors first, then the methods in their order."""
    split, config = comparison.split, comparison.config
    reference = config.reference_variant
    done = [result for result in comparison.results if result.reason is None]
    rows = _floors(done, split)
    tested: list[int] = []
    for variant in config.variants:
        mine = [result for result in comparison.results if result.cell.variant == variant]
        good = [result for result in mine if result.reason is None]
        difference = None
        if reference is not None and variant != reference and good:
            theirs = [r for r in done if r.cell.variant == reference]
            difference = _difference(good, theirs, split, config.bootstrap)
        if difference is not None:
            tested.append(len(rows))
        failures = tuple(f"seed {result.cell.seed}: {result.reason}" for result in mine if result.reason)
        rows.append(Row(variant.name, variant.method.what, _values(good, split), len(good), failures, difference))
    for index, p in zip(tested, holm([rows[i].difference.p for i in tested]), strict=True):
        rows[index] = Row(**{**rows[index].__dict__, "p": p})
    return rows


def markdown_table(comparison: Comparison, rows: Sequence[Row]) -> str:
    """The table, its notes, and what failed."""
    used = _used(rows)
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
        lines.append("| " + " | ".join([row.name, *cells, row.verdict(name)]) + " |")
    lines += ["", *(f"- {note}" for note in notes(comparison, rows))]
    return "\n".join(lines) + "\n"


def notes(comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    """How to read the table, and which cells are missing from it."""
    config = comparison.config
    found = [
        f"Mean ± standard deviation over {config.seeds} seed(s); quality on {comparison.split}.",
        "The test draws seeds and examples with replacement, the same ones for both methods; p is corrected for the number "
        "of rows (Holm). With few seeds an interval is rather too narrow than too wide.",
        "CPU s per step: what the processor worked for the run; other programs on the machine weigh on it less than on s per step.",
        "Trained parameters: selected layers and what trains outside them, mean over the steps. Saved MB: what autograd keeps "
        "for the backward pass. Steps to 95 %: until an evaluation reached 95 % of the best macro-F1 of the same run.",
    ]
    for row in rows:
        found += [f"{row.name} failed, {reason}" for reason in row.failures]
    return found


def csv_table(rows: Sequence[Row]) -> str:
    """The table for programs: means and deviations in columns of their own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [f"{key}{part}" for key, _, _ in COLUMNS for part in ("", "_sd")]
    writer.writerow(["row", "seeds", *heads, "difference", "low", "high", "p", "failures"])
    for row in rows:
        values: list[Any] = []
        for key, _, _ in COLUMNS:
            spread = row.values.get(key)
            values += [spread.mean, spread.deviation] if spread else ["", ""]
        d = row.difference
        values += [d.mean, d.low, d.high, row.p] if d else [""] * 4
        writer.writerow([row.name, row.seeds, *values, "; ".join(row.failures)])
    return out.getvalue()


def steps_to(share: float, result: CellResult) -> int | None:
    """The first step at which an evaluation during training reached ``share`` of the run's best macro-F1."""
    evaluations = [line for line in result.metrics if not line.get("final")]
    best = max((line["macro_f1"] for line in evaluations), default=0.0)
    return next((line["step"] for line in evaluations if line["macro_f1"] >= share * best), None)


def _used(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    return [column for column in COLUMNS if any(column[0] in row.values for row in rows)]


def _values(results: Sequence[CellResult], split: str) -> dict[str, Spread]:
    if not results:
        return {}
    readers: dict[str, Callable[[CellResult], Any]] = {
        key: lambda r, key=key: r.reports[split][MODEL][key] for key in QUALITY
    }
    for key in (
        "seconds_per_step",
        "processor_seconds_per_step",
        "seconds",
        "peak_memory_mb",
        "saved_mb",
        "trained_parameters",
    ):
        readers[key] = lambda r, key=key: r.training.get(key)
    readers["steps_to_95"] = lambda r: steps_to(0.95, r)
    values = {}
    for key, _, _ in COLUMNS:
        numbers = [number for number in map(readers[key], results) if number is not None]
        if numbers:
            values[key] = _spread(numbers)
    return values


def _spread(numbers: Sequence[float]) -> Spread:
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return Spread(statistics.mean(numbers), deviation, len(numbers))


def _floors(results: Sequence[CellResult], split: str) -> list[Row]:
    """The floors look at no seed, so any run has them."""
    if not results:
        return []
    reports = results[0].reports[split]
    return [
        Row(name, "floor", {key: Spread(report[key], 0.0, 1) for key in QUALITY}, 1)
        for name, report in reports.items()
        if name != MODEL
    ]


def _difference(
    ours: Sequence[CellResult], theirs: Sequence[CellResult], split: str, samples: int
) -> Difference | None:
    by_seed = {result.cell.seed: result for result in theirs}
    pairs = [(result, by_seed[result.cell.seed]) for result in ours if result.cell.seed in by_seed]
    if not pairs:
        return None
    labels = sorted({label for record in pairs[0][0].predictions[split] for label in record["labels"]})
    truth = _indicators(pairs[0][0], split, labels, "labels")
    return paired_bootstrap(
        truth,
        [_indicators(mine, split, labels, "predicted") for mine, _ in pairs],
        [_indicators(other, split, labels, "predicted") for _, other in pairs],
        samples=samples,
    )


def _indicators(result: CellResult, split: str, labels: Sequence[str], key: str) -> np.ndarray:
    """bool ``[n, C]``: which of the occurring labels a record has under ``key``; records ordered by id."""
    records = sorted(result.predictions[split], key=lambda record: record["id"])
    return np.array([[label in record[key] for label in labels] for record in records])
