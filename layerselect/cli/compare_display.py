"""What ``layerselect compare`` shows: how far its runs are, and the final table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .progress import StageLine
from .streams import write_json

if TYPE_CHECKING:
    from ..tasks.compare import Comparison, Row
    from ..tasks.compare.tasks import Column


class RunDisplay(StageLine):
    """Shows the events of a comparison on stderr: how many runs are done, how far the running ones are, and a line for
    each that ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._running: dict[str, str] = {}
        self._notes: set[str] = set()

    def __enter__(self) -> RunDisplay:
        super().__enter__()
        self.begin("runs")
        return self

    def __call__(self, kind: str, record: dict[str, Any]) -> None:
        name = record["name"]
        if kind == "note":
            if record["text"] not in self._notes:  # most runs say the same
                self._notes.add(record["text"])
                self.say(f"{name}: {record['text']}")
        elif kind == "part":
            self._running[name] = record["text"]
        else:
            if record["state"] == "started":
                self._running[name] = "starting"
            else:
                self._running.pop(name, None)
            if record["state"] == "finished":
                self.say(f"{name}: {record['seconds']:.0f} s")
            elif record["state"] == "failed":
                self.say(f"{name}: failed: {record['reason']}")
            self.advance(record["done"], record["runs"])
        self.facts("; ".join(f"{each}: {part}" for each, part in self._running.items()))


def print_compare_plan(plan: dict[str, Any], args: argparse.Namespace) -> None:
    """What a comparison would do."""
    if args.json:
        write_json(plan)
        return
    console = Console(file=sys.stdout)
    splits = ", ".join(f"{name} {size:,}" for name, size in plan["splits"].items())
    waiting = [run["name"] for run in plan["runs"] if not run["finished"]]
    for line in (
        f"out: {plan['out']}; nothing is written now",
        f"examples: {splits}",
        f"runs: {len(plan['runs'])}, of which {len(plan['runs']) - len(waiting)} are finished",
        f"to train: {', '.join(waiting) or 'none'}",
    ):
        console.print(escape(line), highlight=False, soft_wrap=True)


def print_comparison(comparison: Comparison, rows: list[Row]) -> None:
    """The table, what failed, and where the files are."""
    from ..tasks.compare import used_columns

    console = Console(file=sys.stdout)
    reference = comparison.config.reference_variant
    name = reference.name if reference else ""
    task = comparison.config.kind
    used = used_columns(task, rows)
    for title, quality in ((f"Quality on {comparison.split}", True), ("Cost", False)):
        shown = [row for row in rows if quality or row.what != "baseline"]
        columns = [column for column in used if (column[0] in task.is_quality) == quality]
        for number, part in enumerate(_packed(columns, shown, console.width)):
            table = Table(title=escape(title) if number == 0 else None, title_justify="left")
            table.add_column("method", no_wrap=True)
            for column in part:
                table.add_column(column[1], justify="right", min_width=_width(column, shown))
            for row in shown:
                cells = [_cell(row, column) for column in part]
                if not row.values:
                    cells[0] = "failed"
                style = "bold" if row.name == name else None
                table.add_row(escape(row.name), *cells, end_section=row.what == "baseline", style=style)
            console.print(table)
    for row in rows:
        if row.difference is not None:
            console.print(escape(f"{row.name}: {row.verdict(name, task.tested[2])}"), highlight=False, soft_wrap=True)
        for reason in row.failures:
            console.print(escape(f"{row.name} failed, {reason}"), highlight=False, soft_wrap=True, style="red")
    console.print(escape(f"report: {comparison.folder / 'report.html'}"), highlight=False, soft_wrap=True)


def _cell(row: Row, column: Column) -> str:
    key, _, digits = column
    return row.values[key].text(digits, "±") if key in row.values else ""


def _width(column: Column, rows: Sequence[Row]) -> int:
    """What the column needs: its numbers whole, and the words of its heading."""
    return max(len(text) for text in (*column[1].split(), *(_cell(row, column) for row in rows)))


def _packed(columns: Sequence[Column], rows: Sequence[Row], room: int) -> list[list[Column]]:
    """The columns in as many tables as it takes for each row to be one line, whole words in the headings."""
    names = max((len(row.name) for row in rows), default=0) + 5
    parts: list[list[Column]] = []
    left = 0
    for column in columns:
        width = _width(column, rows) + 3
        if not parts or width > left:
            parts.append([])
            left = room - names
        parts[-1].append(column)
        left -= width
    return parts
