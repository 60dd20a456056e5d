"""What ``layerselect revise`` shows at the end: the scores, and what was transferred."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ..tasks.revise import ReviseResult

#: Key of the scores, heading, digits.
COLUMNS = (
    ("sari", "SARI", 1),
    ("add", "add", 1),
    ("keep", "keep", 1),
    ("delete", "delete", 1),
    ("gleu", "GLEU", 3),
    ("update_rouge", "Update-ROUGE", 3),
    ("exact_match", "exact", 3),
    ("copy_rate", "copies", 3),
)


def print_revision_results(result: ReviseResult) -> None:
    """On every split, the trained model under the copied source."""
    console = Console(file=sys.stdout)
    for split in result.splits:
        part = "" if split.scored == split.examples else f", {split.scored} of {split.examples} examples"
        table = Table(title=escape(f"{split.split}{part}"), title_justify="left")
        table.add_column("text", no_wrap=True)
        for _, heading, _ in COLUMNS:
            table.add_column(heading, justify="right")
        for number, (name, report) in enumerate(split.reports.items()):
            values = [(getattr(report, key), digits) for key, _, digits in COLUMNS]
            cells = ["–" if value is None else f"{value:.{digits}f}" for value, digits in values]
            own = number == len(split.reports) - 1
            table.add_row(escape(name), *cells, style="bold" if own else None)
        console.print(table)
    facts = result.training
    per_step = f", {facts['seconds_per_step']:.3f} s a step" if facts["seconds_per_step"] is not None else ""
    saved = f", {facts['saved_mb']:.1f} MB saved for the backward pass" if "saved_mb" in facts else ""
    layers = f"{facts['layers_selected']:.1f} of {facts['num_layers']} layers selected on average"
    console.print(f"{facts['steps']} steps{per_step}; {layers}{saved}", highlight=False, soft_wrap=True)
    if (handover := result.handover) is not None:
        ratio = "not known" if handover.ratio is None else f"{handover.ratio:.2f}"
        console.print(
            f"from the predictor: layers {handover.transferred}; alignment ratio {ratio}; loss before the first step "
            f"{handover.first_loss:.3f} ({handover.untrained_loss:.3f} without the transfer)",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"report: {escape(str(result.folder / 'report.html'))}", highlight=False, soft_wrap=True)
