"""The table of a comparison as text: for readers, and for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from ...report.numbers import plural
from ...utils.markdown import table
from .comparison import Comparison
from .rows import BASELINE, Row
from .tasks import Column, Task


def markdown_table(comparison: Comparison, rows: Sequence[Row], *, without: Sequence[str] = ()) -> str:
    """The table, its notes, and what failed.

    Args:
        without: headings of columns that are left out.
    """
    config = comparison.config
    task, reference = config.kind, config.reference_variant
    used = [column for column in used_columns(task, rows) if column[1] not in without]
    name = reference.name if reference else ""
    lines = []
    for row in rows:
        if not row.values:
            cells = ["failed" if row.failures else "not finished"] + [""] * (len(used) - 1)
        else:
            cells = [row.values[key].text(digits) if key in row.values else "" for key, _, digits in used]
        lines.append([row.name, *cells, row.sentence(name, config.within, task.tested[2])])
    heads = [comparison.split, *(heading for _, heading, _ in used), f"against {name}"]
    return table(heads, lines, notes(comparison, rows))


def tested_on(comparison: Comparison) -> str:
    """What the quality of a comparison is measured on, as part of a sentence."""
    folds = comparison.config.folds
    return f"all rows, which {folds} folds by document tested in turn" if folds else comparison.split


def notes(comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    """How to read the table, and which runs are missing from it."""
    config = comparison.config
    where = tested_on(comparison)
    seeds = max((row.seeds for row in rows if row.what != BASELINE), default=config.seeds)
    shown = {key for row in rows for key in row.values}
    found = [
        f"Mean ± standard deviation over {plural(seeds, 'seed')}; quality on {where}.",
        "The verdicts compare the same examples: the bootstrap draws documents and seeds, the same ones for both rows. "
        "The intervals of all rows hold together with 95 %. As good: the interval lies within the margin of "
        f"{config.within:g}. Undecided: neither that nor on one side of 0.",
        "CPU s per step: what the processor worked for the run; other programs on the machine weigh on it less than "
        "on s per step.",
        "Trained parameters: selected layers and what trains outside them, mean over the steps. Saved MB: what "
        "autograd keeps for the backward pass. Of a whole step, of all activations, of all optimizer memory: beside "
        "training all layers, by counted costs where nothing was measured.",
        *(note for columns, note in _TASK_NOTES[config.task] if shown.intersection(columns)),
    ]
    for row in rows:
        found += [f"{row.name} failed, {reason}" for reason in row.failures]
        if missing := missing_runs(row):
            found.append(missing)
    return found


def missing_runs(row: Row) -> str:
    """Which part of a row is not finished, and what its verdict rests on; empty where nothing is missing."""
    if not row.missing:
        return ""
    d = row.difference
    rests = f"; its verdict rests on {plural(d.documents, 'document')} and {plural(d.seeds, 'seed')}" if d else ""
    return f"{row.name}: {plural(row.missing, 'run')} not finished{rests}"


def csv_table(task: Task, rows: Sequence[Row]) -> str:
    """The table for programs: means and deviations in columns of their own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [f"{key}{part}" for key, _, _ in task.columns for part in ("", "_sd")]
    writer.writerow(["row", "seeds", *heads, "difference", "low", "high", "verdict", "failures"])
    for row in rows:
        values: list[Any] = []
        for key, _, _ in task.columns:
            spread = row.values.get(key)
            values += [spread.mean, spread.deviation] if spread else ["", ""]
        d = row.difference
        values += [d.mean, d.low, d.high, row.verdict] if d else [""] * 4
        writer.writerow([row.name, row.seeds, *values, "; ".join(row.failures)])
    return out.getvalue()


def used_columns(task: Task, rows: Sequence[Row]) -> list[Column]:
    """The task's columns that some row has a number for."""
    return [column for column in task.columns if any(column[0] in row.values for row in rows)]


#: For each task, notes with the columns that they are about.
_TASK_NOTES: dict[str, list[tuple[tuple[str, ...], str]]] = {
    "intent": [
        (("steps_to_95",), "Steps to 95%: until an evaluation reached 95% of the best macro-F1 of the same run."),
    ],
    "revise": [
        (
            ("edits_made", "edits_unasked", "invented"),
            "Edits made: the share of the references' edits (runs of words inserted, deleted or replaced) that were "
            "made, at their place and with their words. Edits in no reference: the share of those made that nobody "
            "asked for. Invented words: those in a revision that stand in neither its source nor a reference.",
        ),
        (
            ("start_loss", "end_loss"),
            "First loss: of 32 training examples before the first step, after the transfer where there is one. Last "
            "loss: mean of the last tenth of the logged training losses.",
        ),
        (
            ("alignment_ratio",),
            "r: the alignment ratio of transferred layers and the generator's own choice. Of rows that start from a "
            "predictor, the time is that of the generator alone; the predictor's run is in runs/.",
        ),
        (
            ("other_text_loss", "forgotten"),
            "Loss on other text: of the trained model, a token of the text of --forgetting, which is of no task. "
            "Forgotten: how much more that is than before the training.",
        ),
    ],
}
