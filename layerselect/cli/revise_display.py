"""What ``layerselect revise`` shows at the end: the scores, and what was transferred."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

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
    """On every split, the trained model under the copied source; and what was transferred."""
    from ..tasks.revise.results import SCORES

    for split in result.splits:
        part = "" if split.scored == split.examples else f", {split.scored} of {split.examples} examples"
        table = Table(
            title=escape(f"{split.split}{part}"),
            title_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("text", no_wrap=True)
        for _, heading, _ in SCORES:
            table.add_column(heading.replace("-", "- "), justify="right")  # may break there
        for number, (name, report) in enumerate(split.reports.items()):
            values = [(getattr(report, key), digits) for key, _, digits in SCORES]
            cells = ["–" if value is None else f"{value:.{digits}f}" for value, digits in values]
            own = number == len(split.reports) - 1
            table.add_row(escape(name), *cells, style="bold" if own else None)
        console.print(table)
    if (transfer := result.transfer) is not None:
        ratio = "not known" if transfer.ratio is None else f"{transfer.ratio:.2f}"
        console.print(
            f"from the predictor: layers {transfer.transferred}; alignment ratio {ratio}; loss before the first step "
            f"{transfer.first_loss:.3f} ({transfer.untrained_loss:.3f} without the transfer)",
            highlight=False,
            soft_wrap=True,
        )
