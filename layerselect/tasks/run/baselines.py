"""Two baselines under every trained predictor: the majority class, and a logistic regression on the changed words.

A fine-tuned model below the second has not learned the task.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from .word_features import Described, Row, WordFeatures, describe


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

    def predict(self, rows: Sequence[Row] | Described) -> tuple[np.ndarray, np.ndarray]:
        """``(scores [n, C], predicted [n] or [n, C])``."""
        count = len(rows)
        return np.tile(self._scores, (count, 1)), np.repeat(self._answer[None], count, axis=0)


class WordBaseline:
    """Logistic regression on which words were removed, which were added, and a few counts of the edit.

    Args:
        rows: the training split, of which ``before`` and ``after`` are read; or what
            :func:`~layerselect.tasks.run.word_features.describe` makes of it.
        targets: as for :class:`MajorityBaseline`.
        strength: inverse of the L2 penalty (``C`` of scikit-learn); classes are weighted by the inverse of their
            counts.
        min_df: words in fewer rows are not features.
        terms: whether letters of the changed words and words of the revised text are features, too.

    Attributes:
        features: of the training split.
    """

    name = "logistic regression"

    def __init__(
        self,
        rows: Sequence[Row] | Described,
        targets: np.ndarray,
        num_labels: int,
        *,
        multi_label: bool,
        strength: float = 0.3,
        min_df: int = 1,
        terms: bool = False,
    ) -> None:
        self._num_labels, self._multi_label = num_labels, multi_label
        regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=3000)
        self._model = OneVsRestClassifier(regression) if multi_label else regression
        described = _described(rows)
        self.features = WordFeatures.of(described, min_df=min_df, terms=terms)
        self._constant: int | None = None
        if not multi_label and len(np.unique(targets)) == 1:
            self._constant = int(targets[0])  # nothing to regress on
        else:
            with warnings.catch_warnings():  # a label that is never or always there is no surprise
                warnings.filterwarnings("ignore", "Label", UserWarning)
                self._model.fit(self.features.matrix(described), targets)

    def predict(self, rows: Sequence[Row] | Described) -> tuple[np.ndarray, np.ndarray]:
        """``(scores [n, C], predicted [n] or [n, C])``; a class the training split lacks scores 0."""
        scores = np.zeros((len(rows), self._num_labels))
        if self._constant is not None:
            scores[:, self._constant] = 1.0
            return scores, np.full(len(rows), self._constant)
        probabilities = self._model.predict_proba(self.features.matrix(_described(rows)))
        if self._multi_label:
            return probabilities, (probabilities >= 0.5).astype(int)
        scores[:, self._model.classes_] = probabilities
        return scores, scores.argmax(axis=1)

    def linear(self) -> tuple[np.ndarray, np.ndarray]:
        """The weights float64 ``[C, F]`` and biases ``[C]`` of the labels: their scores are the softmax of
        ``weights @ features + biases`` or, with several labels, the sigmoids. Where a label is never or always there in
        the training split, its bias is minus or plus infinity and its weights are 0.
        """
        weights = np.zeros((self._num_labels, len(self.features)))
        biases = np.full(self._num_labels, -np.inf)
        if self._constant is not None:
            biases[self._constant] = 0.0
        elif self._multi_label:
            for number, one in enumerate(self._model.estimators_):
                if isinstance(one, LogisticRegression):
                    weights[number], biases[number] = one.coef_[0], one.intercept_[0]
                elif one.predict(np.zeros((1, weights.shape[1])))[0]:
                    biases[number] = np.inf
        else:
            seen = self._model.classes_
            if len(seen) == 2:  # scikit-learn keeps the difference of the two
                weights[seen[1]], biases[seen] = self._model.coef_[0], (0.0, self._model.intercept_[0])
            else:
                weights[seen], biases[seen] = self._model.coef_, self._model.intercept_
        return weights, biases


class TextRegression(WordBaseline):
    """The same with more to read: runs of two to four letters of the removed and of the added words, and the words of
    the revised text, by tf-idf. It is no baseline: it has a part in the answers of a predictor.

    Args:
        rows, targets, num_labels: as for :class:`WordBaseline`. The penalty is that of scikit-learn.
    """

    name = "text regression"

    def __init__(
        self, rows: Sequence[Row] | Described, targets: np.ndarray, num_labels: int, *, multi_label: bool
    ) -> None:
        super().__init__(rows, targets, num_labels, multi_label=multi_label, strength=1.0, terms=True)


def _described(rows: Sequence[Row] | Described) -> Described:
    return rows if isinstance(rows, Described) else describe(rows)
