"""What was removed and what was added by a revision, as numbers that a linear model reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

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
        revised: the texts that they led to.
    """

    removed: list[list[str]]
    added: list[list[str]]
    counts: np.ndarray
    revised: list[str]

    def __len__(self) -> int:
        return len(self.removed)

    def subset(self, places: Sequence[int]) -> Described:
        """The revisions at these places, in their order."""
        numbers = list(places)
        return Described(
            [self.removed[i] for i in numbers],
            [self.added[i] for i in numbers],
            self.counts[numbers],
            [self.revised[i] for i in numbers],
        )


@dataclass(frozen=True)
class Terms:
    """Parts of a text that are features: words, or runs of letters within words.

    Attributes:
        names: in lower case, in the order of their numbers.
        weights: the inverse document frequency of each, float64.
    """

    names: list[str]
    weights: np.ndarray

    def matrix(self, texts: Sequence[str], how: Mapping[str, Any]) -> csr_matrix:
        """float64 ``[n, len(names)]``: tf-idf, each row of length 1."""
        vectorizer = TfidfVectorizer(vocabulary=self.names, **how)
        vectorizer.idf_ = self.weights
        return vectorizer.transform(texts)


_LETTERS = {"analyzer": "char_wb", "ngram_range": (2, 4), "sublinear_tf": True}
_WORDS = {"analyzer": "word", "sublinear_tf": True}
#: The terms of a revision by their names: which texts they are parts of, and which parts.
TERMS: dict[str, tuple[Callable[[Described], Sequence[str]], Mapping[str, Any]]] = {
    "removed_letters": (lambda described: [" ".join(words) for words in described.removed], _LETTERS),
    "added_letters": (lambda described: [" ".join(words) for words in described.added], _LETTERS),
    "revised_words": (lambda described: described.revised, _WORDS),
}
#: A term is in so many rows at least, and of each kind so many are kept at most, the most frequent ones.
_LEAST_ROWS, _MOST_TERMS = 3, 50_000


@dataclass(frozen=True)
class WordFeatures:
    """Which numbers there are: one for each word that was removed, one for each that was added, and counts of the edit;
    where they are asked for, also one for each term.

    Attributes:
        removed, added: the words in lower case, in the order of their numbers.
        mean, scale: of the counts, float64 ``[14]``.
        terms: by the names of :data:`TERMS`, in their order.
    """

    removed: list[str]
    added: list[str]
    mean: np.ndarray
    scale: np.ndarray
    terms: Mapping[str, Terms] = field(default_factory=dict)

    @classmethod
    def of(cls, described: Described, *, min_df: int = 1, terms: bool = False) -> WordFeatures:
        """The features of a training split.

        Args:
            min_df: words in fewer rows are not features.
            terms: whether there are terms, too.
        """
        counts = described.counts
        words = [_words(side, min_df) for side in (described.removed, described.added)]
        found = {name: _terms(read(described), how) for name, (read, how) in TERMS.items()} if terms else {}
        known = {name: each for name, each in found.items() if each is not None}
        return cls(*words, counts.mean(axis=0), counts.std(axis=0) + 1e-9, known)

    def __len__(self) -> int:
        return len(self.removed) + len(self.added) + COUNTS + sum(len(each.names) for each in self.terms.values())

    def matrix(self, described: Described) -> csr_matrix:
        """float64 ``[n, F]``: whether each word was removed, whether each was added, the counts standardized, and the
        terms.
        """
        sides = zip((self.removed, self.added), (described.removed, described.added), strict=True)
        columns = [
            CountVectorizer(analyzer=_lower, binary=True, vocabulary=words).transform(rows)
            for words, rows in sides
            if words
        ]
        counts = csr_matrix((described.counts - self.mean) / self.scale)
        terms = [
            self.terms[name].matrix(read(described), how) for name, (read, how) in TERMS.items() if name in self.terms
        ]
        return hstack([*columns, counts, *terms]).tocsr()


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
    numbers = np.asarray(counts, dtype=np.float64).reshape(len(rows), COUNTS)
    return Described(all_removed, all_added, numbers, [row["after"] for row in rows])


def _words(side: list[list[str]], min_df: int) -> list[str]:
    """The words of one side, sorted; none where no word is frequent enough."""
    vectorizer = CountVectorizer(analyzer=_lower, binary=True, min_df=min_df)
    try:
        vectorizer.fit(side)
    except ValueError:
        return []
    found: list[str] = vectorizer.get_feature_names_out().tolist()
    return found


def _terms(texts: Sequence[str], how: Mapping[str, Any]) -> Terms | None:
    """The terms of some texts; ``None`` where no term is in enough of them."""
    vectorizer = TfidfVectorizer(min_df=_LEAST_ROWS, max_features=_MOST_TERMS, **how)
    try:
        vectorizer.fit(texts)
    except ValueError:
        return None
    return Terms(vectorizer.get_feature_names_out().tolist(), vectorizer.idf_)


def _lower(words: Iterable[str]) -> list[str]:
    return [word.lower() for word in words]
