"""Tables of texts and of their edits, as the terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from ..metrics import EditReport
from ..report.edits import INVENTED, KIND_HEADS, MADE, UNASKED, Line, lines_by_kind
from . import wide_table


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
    shown = [wide_table.Line(name, cells, bold=name == own) for name, cells in lines]
    wide_table.WideTable(first, headings, shown, plain=True).show(console, title, shown)
