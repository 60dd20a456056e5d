"""What the training commands show: the stages of a run with the newest numbers, and the final table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..metrics.enough import too_few_steps
from ..report.after_run import blend_line, forgetting_line, next_commands, stages_line
from ..report.numbers import plural
from ..report.state_cache import cache_facts_line, cache_size_line
from ..selector.savings import savings_line
from .progress import StageLine

if TYPE_CHECKING:
    from ..tasks.intent import RunResult


class TrainingDisplay(StageLine):
    """Shows the events of a run on stderr: its stages, how far each is, and a line for each evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self._facts: dict[str, str] = {}
        self._part = ""  # of the run: predictor or generator, if it has such parts
        self._size: tuple[int, int] = (0, 0)

    def __enter__(self) -> TrainingDisplay:
        super().__enter__()
        return self

    def __call__(self, kind: str, record: dict[str, Any]) -> None:
        if kind == "stage":
            self._begin(record["name"])
        elif kind == "step":
            self._size = (record["step"], record["steps"])
            self.advance(*self._size)
        elif kind == "phase":
            self._part = record["name"]
            self._facts = {}
            self.say(record["name"], style="bold")
        elif kind == "revise":
            self.facts(record["split"])
            self.advance(record["done"], record["examples"])
        elif kind == "planned":
            self.say(record["text"], style=None if record["fits"] else "yellow")
        elif kind == "state_cache":
            self.say(cache_size_line(record))
        elif kind == "train":
            self._facts["loss"] = f"loss {record['loss']:.3f}"
            if "num_trained" in record:
                self._facts["layers"] = f"{record['num_trained']} layers selected"
            self.facts("  ".join(self._facts.values()))
        elif kind == "eval":
            self._facts["quality"] = f"{record['split']} {_quality(record)[0]}"
            self.say(
                f"epoch {record['epoch']:.1f}, step {record['step']}: {record['split']} {', '.join(_quality(record))}"
            )

    def _begin(self, name: str) -> None:
        """A stage begins, or goes on where an evaluation or a checkpoint has interrupted it."""
        part = f"{self._part}: " if self._part else ""
        self.begin(part + name)
        if name == "training":
            if self._size[1]:
                self.advance(*self._size)
            self.facts("  ".join(self._facts.values()))


def _quality(record: dict[str, Any]) -> list[str]:
    """What an evaluation says, in words; the most important first."""
    names = (("macro_f1", "macro-F1"), ("macro_auprc", "AUPRC"), ("accuracy", "accuracy"), ("loss", "loss"))
    return [f"{name} {record[key]:.3f}" for key, name in names if key in record]


def print_results(result: RunResult) -> None:
    """What a run has come to, and what can be done with it."""
    console = Console(file=sys.stdout)
    print_scores(console, result)
    print_training(console, result.training)
    print_next(console, "intent", result.folder)


def plan_lines(plan: dict[str, Any]) -> dict[str, str]:
    """What a run would train; nothing of one that is finished."""
    if plan["state"] == "finished":
        return {}
    first = (
        {"first": f"a predictor of intentions, {plural(plan['steps_before'], 'step')}"} if plan["steps_before"] else {}
    )
    return {
        "model": f"{plan['model']}, {plan['layers']} layers, trains {plan['trainable_parameters']:,} of "
        f"{plan['parameters']:,} parameters at most",
        "examples": ", ".join(f"{name} {size:,}" for name, size in plan["splits"].items()),
        **first,
        "training": f"{plural(plan['steps'], 'step')}; the checkpoint is chosen by {plan['chosen_by'] or 'nothing'}",
    }


def print_scores(console: Console, result: RunResult) -> None:
    """The table of the run: on every split, the trained model under its baselines."""
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


def print_training(console: Console, facts: dict[str, Any]) -> None:
    """What is to be said of a training, and of the hidden states that it cached."""
    few = too_few_steps(facts["steps"])
    said = (
        training_line(facts),
        savings_line(facts),
        cache_facts_line(facts),
        forgetting_line(facts),
        blend_line(facts),
    )
    for line in (few, *said, stages_line(facts)):
        if line is not None:
            console.print(line, highlight=False, soft_wrap=True)


def print_next(console: Console, task: str, folder: Path) -> None:
    """Where the page of a finished run is, and what can be done with the run, as commands that can be typed."""
    lines = {"page": str(folder / "report.html"), **next_commands(task, str(folder))}
    for name, line in lines.items():
        console.print(f"{name + ':':11} {escape(line)}", highlight=False, soft_wrap=True)


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
