"""What ``layerselect compare`` shows: how far its runs are, and the final table."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..report.numbers import long_time, plural, share
from .edits_display import print_edits
from .progress import StageLine
from .wide_table import Line, WideTable

#: A run that begins with more than this share of its steps was begun before.
_RESUMED = 0.1

#: Runs that are named one by one.
_FEW = 6

if TYPE_CHECKING:
    from ..tasks.compare import Comparison, Row
    from ..tasks.compare.choices import ChoiceTable
    from ..tasks.compare.prospect import Prospect
    from ..tasks.compare.several import SeveralTable
    from ..tasks.compare.tasks import Column


class RunDisplay(StageLine):
    """Shows the events of a comparison on stderr: how many runs are done, how far the running ones are, and a line for
    each that ends. The steps of those that run count as parts of them, so that the time that is left is known early.
    """

    def __init__(self) -> None:
        super().__init__()
        self._running: dict[str, str] = {}
        self._trained: dict[str, float] = {}
        self._done = 0
        self._notes: set[str] = set()

    def __enter__(self) -> RunDisplay:
        super().__enter__()
        self.begin("runs")
        return self

    def __call__(self, kind: str, record: dict[str, Any]) -> None:
        if kind == "prospect":
            for line in prospect_lines(record["prospect"]):
                self.say(line)
            return
        name = record["name"]
        if kind == "note":
            if record["text"] not in self._notes:  # most runs say the same
                self._notes.add(record["text"])
                self.say(f"{name}: {record['text']}")
        elif kind == "part":
            self._running[name] = record["text"]
            if "share" in record:
                resumed = name not in self._trained and record["share"] > _RESUMED
                self._trained[name] = record["share"]
                self.advance(self._done, part=sum(self._trained.values()), found=resumed)
        else:
            if record["state"] == "started":
                self._running[name] = "starting"
            else:
                self._running.pop(name, None)
                self._trained.pop(name, None)
            if record["state"] == "finished":
                self.say(f"{name}: {record['seconds']:.0f} s")
            elif record["state"] == "failed":
                self.say(f"{name}: failed: {record['reason']}")
            self._done = record["done"]
            found = record["state"] == "kept"
            self.advance(self._done, record["runs"], part=sum(self._trained.values()), found=found)
        self.facts("; ".join(f"{each}: {part}" for each, part in self._running.items()))


def prospect_lines(prospect: Prospect) -> list[str]:
    """What a comparison will be able to tell and how long it takes, in sentences."""
    power, duration = prospect.power, prospect.duration
    tested = f"{plural(prospect.tested, 'row')} of {plural(prospect.documents, 'document')}"
    lines = []
    if power is None:
        lines.append(f"{tested}: what differences can be told is known when two seeds of two rows are finished")
    else:
        told = f"{power.difference:.{3 if prospect.margin < 0.1 else 1}f} {prospect.heading}"
        lines.append(
            f"{tested}, {plural(power.seeds, 'seed')}: a difference of about {told} from {prospect.reference} is told "
            f"in 80% of such comparisons, and a row that does not differ is found as good within {prospect.margin:g} "
            f"in {share(power.equality)}" + ("" if power.measured else " (by what was measured elsewhere)")
        )
    if duration is not None:
        lines.append(f"{plural(prospect.runs, 'run')} to train: about {long_time(duration.seconds)}, by {duration.by}")
    return lines


def compare_plan_lines(plan: dict[str, Any]) -> dict[str, str]:
    """What a comparison would do, each with its heading."""
    waiting = [run["name"] for run in plan["runs"] if not run["finished"]]
    sentences = dict(zip(("will tell", "time"), prospect_lines(plan["prospect"]), strict=False))
    return {
        "examples": ", ".join(f"{name} {size:,}" for name, size in plan["splits"].items()),
        "runs": f"{len(plan['runs'])}, of which {len(plan['runs']) - len(waiting)} are finished",
        "to train": _names(waiting),
        **sentences,
        **({"without effect": "; ".join(plan["without_effect"])} if plan["without_effect"] else {}),
    }


def _names(runs: list[str]) -> str:
    """The names of runs; of many, how many each row has."""
    if len(runs) <= _FEW:
        return ", ".join(runs) or "none"
    rows = Counter(name.partition("-seed")[0] for name in runs)
    return ", ".join(f"{count} of {row}" for row, count in rows.items())


def print_several(table: SeveralTable) -> None:
    """One table of several comparisons."""
    console = Console(file=sys.stdout)
    shown = Table()
    shown.add_column("row", no_wrap=True)
    for corpus, heading in zip(table.corpora, table.headings, strict=True):
        shown.add_column(escape(corpus), justify="right")
        shown.add_column(escape(heading))
    for name, cells in table.lines:
        shown.add_row(escape(name), *(escape(text) for cell in cells for text in cell))
    console.print(shown)


def print_choices(table: ChoiceTable) -> None:
    """How far what was chosen is behind the best row."""
    console = Console(file=sys.stdout)
    shown = Table()
    for number, heading in enumerate(table.heads):
        is_figure = heading not in ("choice", "layers", "row")
        width = max(map(len, (*heading.split(), *(cells[number] for cells in table.lines)))) if is_figure else None
        shown.add_column(escape(heading), overflow="fold", justify="right" if is_figure else "left", width=width)
    for cells in table.lines:
        shown.add_row(*map(escape, cells))
    console.print(shown)
    for note in table.notes:
        console.print(escape(note), highlight=False, soft_wrap=True)


def print_comparison(comparison: Comparison, rows: list[Row], folder: Path | None) -> None:
    """The table, what failed, and where the files are.

    Args:
        folder: of the files, if some were written.
    """
    from ..tasks.compare import used_columns
    from ..tasks.compare.edits import edits_of_rows
    from ..tasks.compare.table import missing_runs

    console = Console(file=sys.stdout)
    reference = comparison.config.reference_variant
    name = reference.name if reference else ""
    task = comparison.config.kind
    used = used_columns(task, rows)
    for title, quality in ((f"Quality on {comparison.split}", True), ("Cost", False)):
        shown = [row for row in rows if quality or row.what != "baseline"]
        columns = [column for column in used if (column[0] in task.is_quality) == quality]
        lines = [
            Line(
                row.name,
                [_cell(row, column) for column in columns],
                only=_lacking(row),
                bold=row.name == name,
                ends=row.what == "baseline",
            )
            for row in shown
        ]
        WideTable("method", [column[1] for column in columns], lines).show(console, title, lines)

    def say(text: str, style: str | None = None) -> None:
        console.print(escape(text), highlight=False, soft_wrap=True, style=style)

    edits = {each: found.whole for each, found in edits_of_rows(comparison).items()}
    print_edits(console, f"Edits on {comparison.split}", "method", edits, own=name)
    for row in rows:
        if row.difference is not None:
            say(f"{row.name}: {row.sentence(name, comparison.config.within, task.tested[2])}")
        for reason in row.failures:
            say(f"{row.name} failed, {reason}", "red")
        if missing := missing_runs(row):
            say(missing)
    if folder is not None:
        say(f"report: {folder / 'report.html'}")


def _cell(row: Row, column: Column) -> str:
    key, _, digits = column
    return row.values[key].text(digits, "±") if key in row.values else ""


def _lacking(row: Row) -> str:
    """Why a row has no numbers; empty where it has some."""
    return "" if row.values else "failed" if row.failures else "not finished"
