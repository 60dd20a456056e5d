"""What ``layerselect revise`` shows at the end: the scores, and what was transferred."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..report.edits import (
    INTENTION_HEADS,
    INVENTED,
    KIND_HEADS,
    MADE,
    UNASKED,
    Line,
    lines_by_intention,
    lines_by_kind,
)
from ..report.numbers import score
from .display import print_next, print_training

if TYPE_CHECKING:
    from ..tasks.revise import ReviseResult


def print_revision_results(result: ReviseResult) -> None:
    """What a run has come to, and what can be done with it."""
    console = Console(file=sys.stdout)
    print_revision_scores(console, result)
    print_training(console, result.training)
    print_next(console, "revise", result.folder)


def print_revision_scores(console: Console, result: ReviseResult) -> None:
    """On every split, the trained model under the copied source, their edits, and those for each intention; and what
    was transferred.
    """
    from ..tasks.revise.results import SCORES

    for split in result.splits:
        part = "" if split.scored == split.examples else f", {split.scored} of {split.examples} examples"
        lines = [
            (name, [score(getattr(report, key), digits) for key, _, digits in SCORES])
            for name, report in split.reports.items()
        ]
        headings = [heading.replace("-", "- ") for _, heading, _ in SCORES]  # may break there
        _print_table(console, f"{split.split}{part}", "text", headings, lines)
        if edits := lines_by_kind(split.reports, whole=False):
            headings = [MADE, *KIND_HEADS, UNASKED, INVENTED]
            _print_table(console, f"{split.split}: edits", "text", headings, edits)
        if intentions := lines_by_intention(split.model):
            title = f"{split.split}: edits of the trained model"
            _print_table(console, title, "intention", INTENTION_HEADS, intentions, own=False)
    if (transfer := result.transfer) is not None:
        ratio = "not known" if transfer.ratio is None else f"{transfer.ratio:.2f}"
        console.print(
            f"from the predictor: layers {transfer.transferred}; alignment ratio {ratio}; loss before the first step "
            f"{transfer.first_loss:.3f} ({transfer.untrained_loss:.3f} without the transfer)",
            highlight=False,
            soft_wrap=True,
        )


def _print_table(
    console: Console, title: str, first: str, headings: Sequence[str], lines: Sequence[Line], *, own: bool = True
) -> None:
    """A table of texts or intentions; the last line stands out where it is the run's ``own``."""
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    # The names of intentions are the corpus's, of any length: the other columns leave them what room there is.
    table.add_column(first, no_wrap=own, overflow="fold")
    for number, heading in enumerate(headings):
        narrow = max(map(len, [*heading.split(), *(cells[number] for _, cells in lines)]))
        table.add_column(heading, justify="right", max_width=None if own else narrow)
    for number, (name, cells) in enumerate(lines, 1):
        table.add_row(escape(name), *cells, style="bold" if own and number == len(lines) else None)
    console.print(table)
