"""What ``layerselect revise`` shows at the end: the scores, and what was transferred."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console

from ..report.edits import INTENTION_HEADS, edits_of, lines_by_intention
from ..report.numbers import score
from .display import print_next, print_training
from .edits_display import print_edits, print_lines

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
    from ..tasks.revise.results import MODEL, SCORES

    for split in result.splits:
        part = "" if split.scored == split.examples else f", {split.scored} of {split.examples} examples"
        lines = [
            (name, [score(getattr(report, key), digits) for key, _, digits in SCORES])
            for name, report in split.reports.items()
        ]
        print_lines(console, f"{split.split}{part}", "text", [head for _, head, _ in SCORES], lines, own=MODEL)
        print_edits(console, f"{split.split}: edits", "text", edits_of(split.reports), own=MODEL)
        if intentions := lines_by_intention(split.model.by_intention):
            title = f"{split.split}: edits of the trained model"
            print_lines(console, title, "intention", INTENTION_HEADS, intentions)
    if (transfer := result.transfer) is not None:
        ratio = "not known" if transfer.ratio is None else f"{transfer.ratio:.2f}"
        console.print(
            f"from the predictor: layers {transfer.transferred}; alignment ratio {ratio}; loss before the first step "
            f"{transfer.first_loss:.3f} ({transfer.untrained_loss:.3f} without the transfer)",
            highlight=False,
            soft_wrap=True,
        )
