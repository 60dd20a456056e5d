"""What is in a corpus: counts, lengths, defects, and what makes a score on it too good."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .schema import Corpus, Defect, fold
from .splits import shared_documents

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SHOWN_DEFECTS = 10
"""Defects that `Description.render` prints in full; the rest are counted."""

SHOWN_LABELS = 100
"""Labels that `Description.render` prints, the most frequent ones; `as_dict` has all of them."""


@dataclass(frozen=True)
class Lengths:
    """Distribution of a length over all rows."""

    median: float
    p95: float
    longest: int


@dataclass(frozen=True)
class Description:
    """What `describe` found; `render` prints it, `as_dict` gives plain types.

    Attributes:
        rows, documents: split -> count.
        labels: label -> split -> rows that have it.
        majority: split -> share of rows that have the split's most frequent label: the accuracy of a model
            that has learned nothing (of single-label rows).
        multi_label_rows: rows with more than one label.
        operations: "addition" (no text before), "deletion" (no text after), "change" -> rows.
        lengths: "words before", "words after", "characters before", "characters after" -> lengths of the
            sides that are not empty; "tokens" of pairs, if `describe` was given a tokenizer.
        cut: share of the pairs longer than `max_length` tokens; None without a tokenizer.
        same_after_folding: rows whose sides differ in white space only, or not at all.
        repeated_pairs: rows whose (before, after) stood in an earlier row.
        conflicting_pairs: pairs (before, after) that have different labels in different rows.
        pairs_in_two_splits: pairs (before, after) that stand in more than one split.
        leaking_documents: "train + validation" -> documents that stand in both.
        defects, notes, fingerprint, name: as in the corpus.
    """

    name: str
    fingerprint: str
    rows: dict[str, int]
    documents: dict[str, int]
    labels: dict[str, dict[str, int]]
    majority: dict[str, float]
    multi_label_rows: int
    operations: dict[str, int]
    lengths: dict[str, Lengths]
    cut: float | None
    max_length: int | None
    same_after_folding: int
    repeated_pairs: int
    conflicting_pairs: int
    pairs_in_two_splits: int
    leaking_documents: dict[str, int]
    defects: list[Defect]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, for JSON."""
        return dataclasses.asdict(self)

    def render(self, console: Console | None = None) -> None:
        """Print the description as tables (to stdout if no console is given)."""
        from rich.console import Console as RichConsole

        out = console or RichConsole()
        total = sum(self.rows.values())
        out.print(f"[bold]{_plain(self.name)}[/bold]: {total:,} revisions, fingerprint {self.fingerprint}")
        out.print(self._label_table())
        out.print(self._length_table())
        out.print(self._facts())
        for note in self.notes:
            out.print(f"note: {_plain(note)}", highlight=False, soft_wrap=True)
        for defect in self.defects[:SHOWN_DEFECTS]:
            what = "kept with a defect" if defect.kept else "skipped"
            out.print(f"{what}: {_plain(str(defect))}", highlight=False, soft_wrap=True)
        if (more := len(self.defects) - SHOWN_DEFECTS) > 0:
            out.print(f"... and {more:,} more")

    def _label_table(self) -> Table:
        table = _table("Labels", ["", *self.rows, "all", "share"])
        total = sum(self.rows.values())
        shown = sorted(self.labels, key=lambda label: -sum(self.labels[label].values()))[:SHOWN_LABELS]
        for label in self.labels if len(shown) == len(self.labels) else shown:
            counts = self.labels[label]
            all_splits = sum(counts.values())
            cells = [f"{counts.get(split, 0):,}" for split in self.rows]
            table.add_row(_plain(label), *cells, f"{all_splits:,}", f"{all_splits / total:.1%}")
        if (more := len(self.labels) - len(shown)) > 0:
            table.add_row(f"... and {more:,} more", *([""] * (len(self.rows) + 2)))
        table.add_section()
        table.add_row("rows", *(f"{n:,}" for n in self.rows.values()), f"{total:,}", "")
        # A document that leaks is counted in each of its splits, so no sum stands here.
        table.add_row("documents", *(f"{n:,}" for n in self.documents.values()), "", "")
        table.add_row("most frequent label", *(f"{share:.1%}" for share in self.majority.values()), "", "")
        return table

    def _length_table(self) -> Table:
        table = _table("Lengths (of sides that are not empty)", ["", "median", "95 %", "longest"])
        for what, found in self.lengths.items():
            table.add_row(what, f"{found.median:,.0f}", f"{found.p95:,.0f}", f"{found.longest:,}")
        return table

    def _facts(self) -> Table:
        table = _table("Worth knowing", ["", "count"])
        skipped = sum(not defect.kept for defect in self.defects)
        facts: dict[str, int | str] = {f"{name}s": count for name, count in self.operations.items()}
        facts["with several labels"] = self.multi_label_rows
        facts["equal sides after white space is folded"] = self.same_after_folding
        facts["repeat an earlier pair"] = self.repeated_pairs
        facts["pairs with contradicting labels"] = self.conflicting_pairs
        facts["pairs that stand in two splits"] = self.pairs_in_two_splits
        for splits, count in self.leaking_documents.items():
            facts[f"documents in {splits}"] = count
        if self.cut is not None:
            facts[f"pairs longer than {self.max_length} tokens"] = f"{self.cut:.1%}"
        facts["malformed, skipped"] = skipped
        facts["kept with a defect"] = len(self.defects) - skipped
        for what, count in facts.items():
            table.add_row(what, count if isinstance(count, str) else f"{count:,}")
        return table


def describe(
    corpus: Corpus, *, count_tokens: Callable[[str, str], int] | None = None, max_length: int = 128
) -> Description:
    """Describe a corpus.

    Args:
        corpus: from `load_corpus`.
        count_tokens: (before, after) -> tokens of the pair as a model would be given it; for the share of
            pairs that are longer than `max_length`.
        max_length: in tokens.
    """
    rows = {name: [dict(row) for row in split] for name, split in corpus.splits.items()}
    everything = list(itertools.chain.from_iterable(rows.values()))
    pairs = Counter((row["before"], row["after"]) for row in everything)
    labels_of: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    splits_of: dict[tuple[str, str], set[str]] = {}
    for name, split in rows.items():
        for row in split:
            pair = row["before"], row["after"]
            labels_of.setdefault(pair, set()).add(tuple(sorted(row["intentions"])))
            splits_of.setdefault(pair, set()).add(name)
    per_split = {name: Counter(label for row in split for label in row["intentions"]) for name, split in rows.items()}
    lengths = _lengths(everything)
    cut = None
    if count_tokens is not None:
        tokens = [count_tokens(row["before"], row["after"]) for row in everything]
        lengths["tokens"] = _distribution(tokens)
        cut = sum(count > max_length for count in tokens) / len(tokens)
    leaks = shared_documents({name: [row["doc_id"] for row in split] for name, split in rows.items()})
    return Description(
        name=corpus.name,
        fingerprint=corpus.fingerprint,
        rows={name: len(split) for name, split in rows.items()},
        documents={name: len({row["doc_id"] for row in split}) for name, split in rows.items()},
        labels={label: {name: per_split[name][label] for name in rows} for label in corpus.labels},
        majority={name: max(per_split[name].values()) / len(split) for name, split in rows.items()},
        multi_label_rows=sum(len(row["intentions"]) > 1 for row in everything),
        operations=dict(Counter({"addition": 0, "deletion": 0, "change": 0}) + Counter(map(_operation, everything))),
        lengths=lengths,
        cut=cut,
        max_length=None if count_tokens is None else max_length,
        same_after_folding=sum(fold(row["before"]) == fold(row["after"]) for row in everything),
        repeated_pairs=sum(count - 1 for count in pairs.values()),
        conflicting_pairs=sum(len(found) > 1 for found in labels_of.values()),
        pairs_in_two_splits=sum(len(found) > 1 for found in splits_of.values()),
        leaking_documents={" + ".join(names): count for names, count in leaks.items()},
        defects=list(corpus.defects),
        notes=list(corpus.notes),
    )


def _operation(row: dict[str, Any]) -> str:
    if not row["before"].strip():
        return "addition"
    return "change" if row["after"].strip() else "deletion"


def _lengths(rows: Sequence[dict[str, Any]]) -> dict[str, Lengths]:
    found = {}
    for unit, measure in (("words", lambda text: len(text.split())), ("characters", len)):
        for side in ("before", "after"):
            found[f"{unit} {side}"] = _distribution([measure(row[side]) for row in rows if row[side].strip()])
    return found


def _distribution(values: Sequence[int]) -> Lengths:
    if not values:  # a corpus of additions only has no text before
        return Lengths(0.0, 0.0, 0)
    return Lengths(float(np.median(values)), float(np.percentile(values, 95)), int(max(values)))


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich.table import Table as RichTable

    table = RichTable(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _plain(text: str) -> str:
    """`text` with rich's markup switched off: labels and file names are not ours."""
    from rich.markup import escape

    return escape(text)
