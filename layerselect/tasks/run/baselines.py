"""Two baselines under every trained predictor: the majority class, and a logistic regression on the changed words.

A fine-tuned model below the second has not learned the task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from ...data.edits import find_edits, likeness, split_words

Row = Mapping[str, Any]


class MajorityBaseline:
    """Always the most frequent answer; its scores are the shares of the labels in the training split.

    Args:
        targets: class numbers ``[n]`` or, with several labels, 0/1 ``[n, C]`` of the training split.
        num_labels: ``C``.
    """

    name = "majority class"

    def __init__(self, targets: np.ndarray, num_labels: int, *, multi_label: bool) -> None:
        if multi_label:
            self._scores = targets.mean(axis=0).astype(np.float64)
            sets, counts = np.unique(targets, axis=0, return_counts=True)
            self._answer = sets[counts.argmax()].astype(int)
        else:
            self._scores = np.bincount(targets, minlength=num_labels) / len(targets)
            self._answer = np.asarray(self._scores.argmax())

    def predict(self, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
        """``(scores [n, C], predicted [n] or [n, C])``."""
        count = len(rows)
        return np.tile(self._scores, (count, 1)), np.repeat(self._answer[None], count, axis=0)


class WordBaseline:
    """Logistic regression on which words were removed, which were added, and a few counts of the edit.

    Args:
        rows: the training split; ``before`` and ``after`` are read.
        targets: as for :class:`MajorityBaseline`.
        strength: inverse of the L2 penalty (``C`` of scikit-learn); classes are weighted by the inverse of their
            counts.
        min_df: words in fewer rows are not features.
    """

    name = "logistic regression"

    def __init__(
        self,
        rows: Sequence[Row],
        targets: np.ndarray,
        num_labels: int,
        *,
        multi_label: bool,
        strength: float = 0.3,
        min_df: int = 1,
    ) -> None:
        self._num_labels, self._multi_label = num_labels, multi_label
        self._vectorizers: list[CountVectorizer] = []
        self._mean = self._scale = np.zeros(0)
        regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=3000)
        self._model = OneVsRestClassifier(regression) if multi_label else regression
        features = self._fit_features(rows, min_df)
        self._constant: int | None = None
        if not multi_label and len(np.unique(targets)) == 1:
            self._constant = int(targets[0])  # nothing to regress on
        else:
            self._model.fit(features, targets)

    def predict(self, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
        """``(scores [n, C], predicted [n] or [n, C])``; a class the training split lacks scores 0."""
        scores = np.zeros((len(rows), self._num_labels))
        if self._constant is not None:
            scores[:, self._constant] = 1.0
            return scores, np.full(len(rows), self._constant)
        probabilities = self._model.predict_proba(self._features(rows))
        if self._multi_label:
            return probabilities, (probabilities >= 0.5).astype(int)
        scores[:, self._model.classes_] = probabilities
        return scores, scores.argmax(axis=1)

    def _fit_features(self, rows: Sequence[Row], min_df: int) -> csr_matrix:
        removed, added, counts = _describe(rows)
        self._mean, self._scale = counts.mean(axis=0), counts.std(axis=0) + 1e-9
        columns = []
        for side in (removed, added):
            vectorizer = CountVectorizer(analyzer=_lower, binary=True, min_df=min_df)
            try:
                columns.append(vectorizer.fit_transform(side))
                self._vectorizers.append(vectorizer)
            except ValueError:  # no word is frequent enough: this side has no features
                self._vectorizers.append(None)
        return hstack([*columns, csr_matrix((counts - self._mean) / self._scale)]).tocsr()

    def _features(self, rows: Sequence[Row]) -> csr_matrix:
        removed, added, counts = _describe(rows)
        columns = [
            vectorizer.transform(side)
            for vectorizer, side in zip(self._vectorizers, (removed, added), strict=True)
            if vectorizer is not None
        ]
        return hstack([*columns, csr_matrix((counts - self._mean) / self._scale)]).tocsr()


def _lower(words: Iterable[str]) -> list[str]:
    return [word.lower() for word in words]


def _describe(rows: Sequence[Row]) -> tuple[list[list[str]], list[list[str]], np.ndarray]:
    """For each revision: removed words, added words, and counts ``[n, 14]`` (lengths, similarity, kind of edit)."""
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
    return all_removed, all_added, np.asarray(counts, dtype=np.float64)
