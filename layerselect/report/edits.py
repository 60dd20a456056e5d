"""Tables of edits: which of those in the references were made, and what else was written, by kind and by intention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..metrics import EditReport, RevisionScores
from ..metrics.edits import KINDS
from .numbers import score

#: A row of such a table: its name, and what stands in its cells.
Line = tuple[str, Sequence[str]]

#: What a line says that holds the numbers of edits which could be made.
ASKED = "in the references"
MADE, UNASKED, INVENTED = "made", "in no reference", "invented words"
KIND_HEADS = ("inserted", "deleted", "replaced")
INTENTION_HEADS = ("texts", "edits asked for", MADE, UNASKED, INVENTED, "copied")


def edits_of(reports: Mapping[str, RevisionScores]) -> dict[str, EditReport | None]:
    """The edits of each text; ``None`` where an earlier release scored it."""
    return {name: report.edits for name, report in reports.items()}


def edit_heads() -> dict[str, Any]:
    """The headings over the cells of :func:`lines_by_kind`: of the shares, of the kinds below each, and of the last."""
    return {"shares": (MADE, UNASKED), "kinds": ("all", *KIND_HEADS), "last": INVENTED}


def lines_by_kind(reports: Mapping[str, EditReport | None], *, whole: bool = True) -> list[Line]:
    """A line for each text, under one with the numbers of edits that were asked for; none where nobody counted them.

    The cells are the share that was made, of all and of each kind; the share in no reference, of all and of each kind;
    and the invented words.

    Args:
        whole: with the kinds of the edits that are in no reference; else only with all of these.
    """
    counted = {name: report for name, report in reports.items() if report is not None}
    if not counted:
        return []
    unasked = 1 + len(KIND_HEADS) if whole else 1
    first = next(iter(counted.values()))
    asked = [f"{counts.asked:,}" for counts in (first.edits, *(first.kinds[kind] for kind in KINDS))]
    lines: list[Line] = [(ASKED, [*asked, *[""] * (unasked + 1)])]
    for name, report in counted.items():
        several = (report.edits, *(report.kinds[kind] for kind in KINDS))
        cells = [score(counts.share_done) for counts in several]
        cells += [score(counts.share_unasked) for counts in several[:unasked]]
        lines.append((name, [*cells, score(report.invented_each, 2)]))
    return lines


def lines_by_intention(reports: Mapping[str, EditReport]) -> list[Line]:
    """A line for each intention, with the cells of :data:`INTENTION_HEADS`."""
    return [(name, _of_intention(each)) for name, each in reports.items()]


def lines_of_texts(texts: Mapping[str, Mapping[str, EditReport]]) -> list[tuple[str, str, Sequence[str]]]:
    """The text, the intention and the cells of :func:`lines_by_intention`, for each intention of several texts."""
    return [(name, *line) for name, reports in texts.items() for line in lines_by_intention(reports)]


def _of_intention(report: EditReport) -> list[str]:
    edits = report.edits
    return [
        f"{report.revisions:,}",
        f"{edits.asked:,}",
        score(edits.share_done),
        score(edits.share_unasked),
        score(report.invented_each, 2),
        score(report.share_copied),
    ]
