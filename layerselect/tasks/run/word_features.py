"""What was removed and what was added by a revision, as numbers that a linear model reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer

from ...data.edits import find_edits, likeness, split_words

Row = Mapping[str, Any]

#: How many counts of the edit there are.
COUNTS = 14


@dataclass(frozen=True)
class Described:
    """Revisions, taken apart.

    Attributes:
        removed, added: the words of each.
        counts: float64 ``[n, 14]``: lengths, similarity, kind of edit.
    """

    removed: list[list[str]]
    added: list[list[str]]
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.removed)

    def subset(self, places: Sequence[int]) -> Described:
        """The revisions at these places, in their order."""
        numbers = list(places)
        return Described([self.removed[i] for i in numbers], [self.added[i] for i in numbers], self.counts[numbers])


@dataclass(frozen=True)
class WordFeatures:
    """Which numbers there are: one for each word that was removed, one for each that was added, and counts of the edit.

    Attributes:
        removed, added: the words in lower case, in the order of their numbers.
        mean, scale: of the counts, float64 ``[14]``.
    """

    removed: list[str]
    added: list[str]
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, described: Described, *, min_df: int = 1) -> WordFeatures:
        """The features of a training split.

        Args:
            min_df: words in fewer rows are not features.
        """
        counts = described.counts
        words = [_words(side, min_df) for side in (described.removed, described.added)]
        return cls(*words, counts.mean(axis=0), counts.std(axis=0) + 1e-9)

    def __len__(self) -> int:
        return len(self.removed) + len(self.added) + COUNTS

    def matrix(self, described: Described) -> csr_matrix:
        """float64 ``[n, F]``: whether each word was removed, whether each was added, and the counts standardized."""
        sides = zip((self.removed, self.added), (described.removed, described.added), strict=True)
        columns = [
            CountVectorizer(analyzer=_lower, binary=True, vocabulary=words).transform(rows)
            for words, rows in sides
            if words
        ]
        return hstack([*columns, csr_matrix((described.counts - self.mean) / self.scale)]).tocsr()


def describe(rows: Sequence[Row]) -> Described:
    """Takes revisions apart; ``before`` and ``after`` are read."""
    all_removed, all_added, counts = [], [], []
    for row in rows:
        old, new = split_words(row["before"]), split_words(row["after"])
        edits = find_edits(old, new)
        removed = [word for edit in edits for word in old[edit.before_start : edit.before_end]]
        added = [word for edit in edits for word in new[edit.after_start : edit.after_end]]
        out, into = " ".join(removed), " ".join(added)
        counts.append(
            [
                np.log1p(len(removed)),
                np.log1p(len(added)),
                (len(added) - len(removed)) / (1 + len(added) + len(removed)),
                np.log1p(len(out)),
                np.log1p(len(into)),
                np.log1p(len(old)),
                len(edits),
                likeness(out, into),
                not removed,
                not added,
                out.lower() == into.lower(),
                sorted(removed) == sorted(added),
                not any(c.isalnum() for c in out + into),
                any(c.isdigit() for c in out + into),
            ]
        )
        all_removed.append(removed)
        all_added.append(added)
    return Described(all_removed, all_added, np.asarray(counts, dtype=np.float64).reshape(len(rows), COUNTS))


def _words(side: list[list[str]], min_df: int) -> list[str]:
    """The words of one side, sorted; none where no word is frequent enough."""
    vectorizer = CountVectorizer(analyzer=_lower, binary=True, min_df=min_df)
    try:
        vectorizer.fit(side)
    except ValueError:
        return []
    found: list[str] = vectorizer.get_feature_names_out().tolist()
    return found


def _lower(words: Iterable[str]) -> list[str]:
    return [word.lower() for word in words]
