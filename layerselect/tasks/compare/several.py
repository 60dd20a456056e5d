"""One table of several comparisons: the same rows on several corpora."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...utils.markdown import table
from .comparison import Comparison
from .rows import BASELINE, Row, comparison_rows


@dataclass(frozen=True)
class SeveralTable:
    """Several comparisons side by side.

    Attributes:
        corpora: the name of each.
        headings: the tested quality of each.
        lines: for each row its name, and for each corpus its quality and its verdict; both are empty where the
            corpus has no such row.
    """

    corpora: Sequence[str]
    headings: Sequence[str]
    lines: Sequence[tuple[str, Sequence[tuple[str, str]]]]

    def markdown(self) -> str:
        """The table for a page of text."""
        heads = [f"{corpus}: {heading}" for corpus, heading in zip(self.corpora, self.headings, strict=True)]
        return table(
            ["", *(cell for head in heads for cell in (head, "verdict"))],
            ([name, *(text for cell in cells for text in cell)] for name, cells in self.lines),
        )


def several_table(comparisons: Sequence[Comparison]) -> SeveralTable:
    """The rows of several comparisons, in the order in which they first stand in one; baselines first."""
    tables = [{row.name: row for row in comparison_rows(each)} for each in comparisons]
    names = list(dict.fromkeys(name for table in tables for name in table))
    names.sort(key=lambda name: all(table[name].what != BASELINE for table in tables if name in table))
    return SeveralTable(
        [str(each.config.base.get("data", each.folder)) for each in comparisons],
        [each.config.kind.tested[1] for each in comparisons],
        [
            (name, [_cell(each, table.get(name)) for each, table in zip(comparisons, tables, strict=True)])
            for name in names
        ],
    )


def _cell(comparison: Comparison, row: Row | None) -> tuple[str, str]:
    key, _, digits = comparison.config.kind.tested
    if row is None or key not in row.values:
        return "", ""
    d = row.difference
    if d is None:
        return row.values[key].text(digits), ""
    return row.values[key].text(digits), f"{row.verdict} ({d.low:+.{digits}f} to {d.high:+.{digits}f})"
