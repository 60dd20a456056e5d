"""Tables of texts and of their edits, as the terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..metrics import EditReport
from ..report.edits import INVENTED, KIND_HEADS, MADE, UNASKED, Line, lines_by_kind


def print_edits(
    console: Console, title: str, first: str, reports: Mapping[str, EditReport | None], *, own: str | None
) -> None:
    """Which edits each text has, where they were counted; the line of the text ``own`` stands out."""
    if lines := lines_by_kind(reports, whole=False):
        print_lines(console, title, first, [MADE, *KIND_HEADS, UNASKED, INVENTED], lines, own=own)


def print_lines(
    console: Console, title: str, first: str, headings: Sequence[str], lines: Sequence[Line], *, own: str | None = None
) -> None:
    """A table of texts, of which ``own`` stands out; or, without it, of intentions."""
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    # The names of intentions are the corpus's, of any length: the other columns leave them what room there is.
    table.add_column(first, no_wrap=own is not None, overflow="fold")
    for number, heading in enumerate(headings):
        narrow = max(map(len, [*heading.split(), *(cells[number] for _, cells in lines)]))
        table.add_column(heading, justify="right", max_width=None if own is not None else narrow)
    for name, cells in lines:
        table.add_row(escape(name), *cells, style="bold" if name == own else None)
    console.print(table)
