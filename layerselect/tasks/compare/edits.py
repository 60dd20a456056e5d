"""What the rows of a comparison of writers changed, beside what their references change, and its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...metrics import EditReport
from ...report.edits import INTENTION_HEADS, edit_heads, lines_by_kind, lines_of_texts
from ...utils.markdown import table
from ..revise.results import COPIED
from .comparison import Comparison, Part
from .counts import ReviseCounts


@dataclass(frozen=True)
class RowEdits:
    """The edits of a row: of its revisions in all seeds and folds together, and of those for each intention, which the
    copied source lacks, as it has no edits.
    """

    whole: EditReport
    by_intention: Mapping[str, EditReport]


def edits_of_rows(comparison: Comparison) -> dict[str, RowEdits]:
    """What each row changed on the reported split, baselines first.

    Rows that earlier releases kept have no counts and are left out, as all rows of another task are.
    """
    counts, found = comparison.config.kind.counts, {}
    if not isinstance(counts, ReviseCounts):
        return {}
    for name, parts in _parts_of_rows(comparison).items():
        report = counts.edits(np.concatenate(list(parts.values()))) if _alike(parts) else None
        if report is not None:
            several = {} if name == COPIED else dict(_by_intention(comparison, counts, parts))
            found[name] = RowEdits(report, several)
    return found


def edits_markdown(comparison: Comparison) -> str:
    """The tables by kind and by intention; empty where nobody counted edits."""
    edits = edits_of_rows(comparison)
    if not edits:
        return ""
    tables = [by_kind_markdown(comparison.split, edits)]
    if any(each.by_intention for each in edits.values()):
        tables.append(by_intention_markdown(comparison.split, edits))
    return "\n".join(tables)


def by_kind_markdown(split: str, edits: Mapping[str, RowEdits]) -> str:
    """The shares of edits that were made and that are in no reference, of all edits and of each kind."""
    heads = edit_heads()
    columns = [share if kind == "all" else f"{share}, {kind}" for share in heads["shares"] for kind in heads["kinds"]]
    lines = lines_by_kind({name: each.whole for name, each in edits.items()})
    return table((f"edits, {split}", *columns, heads["last"]), [(name, *cells) for name, cells in lines])


def by_intention_markdown(split: str, edits: Mapping[str, RowEdits]) -> str:
    """The edits of each row, by intention."""
    lines = lines_of_texts({name: each.by_intention for name, each in edits.items()})
    rows = [(name, intention, *cells) for name, intention, cells in lines]
    return table((f"edits, {split}", "intention", *INTENTION_HEADS), rows)


def _parts_of_rows(comparison: Comparison) -> dict[str, dict[Part, np.ndarray]]:
    """What is kept of each row's revisions, by seed and fold."""
    split = comparison.split
    found: dict[str, dict[Part, np.ndarray]] = {}
    for fold, baselines in comparison.baselines.items():
        for name, kept in baselines.items():
            if split in kept:
                found.setdefault(name, {})[0, fold] = kept[split]
    for variant in comparison.config.variants:
        if runs := comparison.finished(variant):
            found[variant.name] = {part: run.statistics[split] for part, run in runs.items()}
    return found


def _alike(parts: Mapping[Part, np.ndarray]) -> bool:
    """Whether as much was kept of each part."""
    return len({rows.shape[1] for rows in parts.values()}) == 1


def _by_intention(
    comparison: Comparison, counts: ReviseCounts, parts: Mapping[Part, np.ndarray]
) -> list[tuple[str, EditReport]]:
    truths = {fold: comparison.examples[fold][comparison.split] for _, fold in parts}
    names = next(iter(truths.values())).names
    found = []
    for number, name in enumerate(names):
        mine = [rows[truths[fold].labels[:, number]] for (_, fold), rows in parts.items()]
        report = counts.edits(np.concatenate(mine))
        if report is not None and report.revisions:
            found.append((name, report))
    return found
