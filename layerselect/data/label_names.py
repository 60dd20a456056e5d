"""Names of labels that look like a slip: several in one cell, or one that is spelled in two ways."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from .schema import Revision
from .table import short

#: What may stand between several labels in one cell.
_SEPARATORS = (";", ",", "|", "/", "+", "\n")
_BLANK = re.compile(r"[\s_-]+")
_SHOWN = 4


def doubtful_labels(rows: Sequence[Revision], *, parted: bool) -> Iterator[str]:
    """Sentences about labels that may not be meant as they are; nothing is changed.

    Args:
        parted: cells with several labels were cut apart already.
    """
    counts = Counter(name for row in rows for name in row.intentions)
    if not parted:
        yield from _joined(counts)
    yield from _spelled_in_two_ways(counts)


def _joined(counts: Counter[str]) -> Iterator[str]:
    """Where what stands before or behind a separator is a label by itself."""
    for separator in _SEPARATORS:
        parts = {name: [part.strip() for part in name.split(separator)] for name in counts if separator in name}
        joined = [name for name, names in parts.items() if any(part != name and part in counts for part in names)]
        if joined:
            name = max(joined, key=lambda each: counts[each])
            own = next(part for part in parts[name] if part in counts)
            yield (
                f"{sum(counts[each] for each in joined)} rows have labels such as {short(name)!r}, of which "
                f"{short(own)!r} is a label by itself: where a cell holds several, say label_delimiter={separator!r} "
                "(--label-delimiter)"
            )


def _spelled_in_two_ways(counts: Counter[str]) -> Iterator[str]:
    """Where labels are the same but for capitals, blanks, hyphens and underlines."""
    alike: dict[str, list[str]] = {}
    for name in sorted(counts):
        alike.setdefault(_BLANK.sub(" ", name).casefold(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            listed = ", ".join(f"{short(name)!r} ({counts[name]:,})" for name in names[:_SHOWN])
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            yield (
                f"the labels {listed}{more} differ in capitals, blanks or hyphens alone and are {len(names)} classes: "
                "spell them alike if they are one"
            )
