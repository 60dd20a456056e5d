"""What the training commands show: a progress bar with the latest numbers, and the final table."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..report.state_cache import cache_facts_line, cache_size_line

if TYPE_CHECKING:
    from ..tasks.intent import RunResult


class TrainingDisplay:
    """Shows the events of a run on stderr: a bar on a terminal, a line for each evaluation elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.fields[doing]}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[facts]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, facts="", doing="training")
        self._facts: dict[str, str] = {}

    def __enter__(self) -> TrainingDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._progress.stop()

    def __call__(self, kind: str, record: dict[str, Any]) -> None:
        if kind == "step":
            self._progress.update(self._task, completed=record["step"], total=record["steps"])
            return
        if kind == "phase":
            self._begin(record["name"])
            return
        if kind == "revise":
            self._progress.update(
                self._task,
                doing=f"revising {escape(record['split'])}",
                completed=record["done"],
                total=record["examples"],
            )
            return
        if kind == "state_cache":
            self._console.print(escape(cache_size_line(record)), highlight=False, soft_wrap=True)
            return
        if kind == "train":
            self._facts["loss"] = f"loss {record['loss']:.3f}"
            if "num_trained" in record:
                self._facts["layers"] = f"{record['num_trained']} layers selected"
        else:
            self._facts["quality"] = f"{escape(record['split'])} " + _quality(record)[0]
            self._console.print(
                f"epoch {record['epoch']:.1f}, step {record['step']}: {escape(record['split'])} "
                f"{', '.join(_quality(record))}",
                highlight=False,
                soft_wrap=True,
            )
        self._progress.update(self._task, facts="  ".join(self._facts.values()))

    def _begin(self, name: str) -> None:
        """Another part of the job: the bar starts anew."""
        self._facts = {}
        self._console.print(name, highlight=False, style="bold")
        self._progress.reset(self._task, total=None, facts="", doing=name)


def _quality(record: dict[str, Any]) -> list[str]:
    """What an evaluation says, in words; the most important first."""
    names = (("macro_f1", "macro-F1"), ("macro_auprc", "AUPRC"), ("accuracy", "accuracy"), ("loss", "loss"))
    return [f"{name} {record[key]:.3f}" for key, name in names if key in record]


def print_results(result: RunResult) -> None:
    """The table of the run: on every split, the trained model under its two baselines."""
    console = Console(file=sys.stdout)
    table = Table(title="Results", title_justify="left")
    for name, justify in (
        ("split", "left"),
        ("predictor", "left"),
        ("macro-F1", "right"),
        ("macro AUPRC", "right"),
        ("accuracy", "right"),
    ):
        table.add_column(name, justify=justify)
    for split in result.splits:
        for number, (name, report) in enumerate(split.reports.items()):
            own = number == len(split.reports) - 1
            cells = [f"{v:.3f}" for v in (report.macro_f1, report.macro_auprc, report.accuracy)]
            table.add_row(
                escape(split.split) if number == 0 else "",
                escape(name),
                *cells,
                style="bold" if own else None,
                end_section=own,
            )
    console.print(table)
    print_training(console, result.training)
    console.print(f"report: {escape(str(result.folder / 'report.html'))}", highlight=False, soft_wrap=True)


def print_training(console: Console, facts: dict[str, Any]) -> None:
    """A line on a training, and one on the hidden states that it kept."""
    for line in (training_line(facts), cache_facts_line(facts)):
        if line is not None:
            console.print(line, highlight=False, soft_wrap=True)


def training_line(facts: dict[str, Any]) -> str:
    """One line on a training, by its facts."""
    per_step = f", {facts['seconds_per_step']:.3f} s a step" if facts["seconds_per_step"] is not None else ""
    if per_step and facts.get("states_cached"):
        per_step += f" ({facts['last_epoch_seconds_per_step']:.3f} s in the last epoch)"
    saved = f", {facts['saved_mb']:.1f} MB saved for the backward pass" if "saved_mb" in facts else ""
    return f"{facts['steps']} steps{per_step}; {layers_line(facts)}{saved}"


def layers_line(facts: dict[str, Any]) -> str:
    """How much was selected, and how much of it trained, by the facts of a training."""
    selected, layers = facts["layers_selected"], facts["num_layers"]
    trained = facts.get("layers_trained")  # runs of early releases do not know it
    if selected is None or trained is None:
        return "no layer selected" if selected is None else f"{selected:.1f} of {layers} layers selected on average"
    return (
        f"{selected:.1f} of {layers} layers selected on average, {trained:.1f} trained (a layer was selected in "
        f"{selected / layers:.0%} and trained in {trained / layers:.0%} of the steps)"
    )
