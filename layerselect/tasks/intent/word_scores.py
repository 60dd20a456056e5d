"""What a logistic regression on the words of a revision adds to a predictor.

As an *offset*, the known term of a linear predictor in statistics, its log-probabilities are added to the model's
logits in training and in prediction, so what the model learns is what the words leave open. Examples that train get the
scores of regressions that have not seen their documents. With those of one that has, there would be nothing left to
learn.

As a *blend*, the training is as it is without, and the answer is a weighted mean of both log-probabilities (a
logarithmic opinion pool; a product of experts: Hinton, Neural Computation 2002). Where there may be several labels,
each has a threshold of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from scipy.special import log_softmax, logit

from ...data import Corpus
from ...data.splits import fold_places
from ...utils.saved_files import DamagedFile, read_json, read_tensors
from ...utils.saved_schema import Fields, Items, Maybe, Number, Text
from ..run.baselines import WordBaseline
from ..run.word_features import COUNTS, TERMS, Described, Terms, WordFeatures, describe
from .config import NONE, IntentConfig
from .dataset import EncodedSplit, Splits

#: The training documents are dealt into so many parts. The scores of each come from a regression on the others.
_PARTS = 5
#: No label is impossible: probabilities are at least this, or with several labels between this and 1 minus this.
_LEAST = 1e-4
#: Stands for an infinite bias in a file.
_FAR = 1e4
_NUMBERS, _VOCABULARY = "word_scores.safetensors", "word_scores.json"
_THRESHOLDS = "thresholds"
_ADVICE = "train again"
_WORDS = Items(Text(), unique=True)
_KIND = Fields(
    {"blend": Maybe(Number(1e-9, 1)), "removed": _WORDS, "added": _WORDS}, optional=dict.fromkeys(TERMS, _WORDS)
)


@dataclass(frozen=True)
class WordScores:
    """A logistic regression on the words of revisions, ready to give scores.

    Attributes:
        weights, biases: float64 ``[C, F]`` and ``[C]``.
        blend: how much the model weighs in a blend, above 0 and at most 1; ``None``: it has learned on top.
        thresholds: with several labels the probability of each from which on it is answered, float64 ``[C]``, between 0
            and 1; ``None``: 0.5 for all.
    """

    features: WordFeatures
    weights: np.ndarray
    biases: np.ndarray
    multi_label: bool
    blend: float | None = None
    thresholds: np.ndarray | None = None

    @classmethod
    def of(cls, baseline: WordBaseline, *, multi_label: bool) -> WordScores:
        """That of a fitted regression."""
        weights, biases = baseline.linear()
        return cls(baseline.features, weights, np.clip(biases, -_FAR, _FAR), multi_label)

    def joined(self, logits: np.ndarray, own: np.ndarray) -> np.ndarray:
        """The logits ``[n, C]`` of the answer. Where labels have thresholds, a logit of 0 is at its label's.

        Args:
            logits: of the model alone, ``[n, C]``.
            own: what calling this gave for the same revisions.
        """
        if self.blend is None:
            return logits + own
        theirs = logits if self.multi_label else log_softmax(logits, axis=1)
        blended: np.ndarray = self.blend * theirs + (1 - self.blend) * own
        return blended if self.thresholds is None else blended - logit(self.thresholds).astype(blended.dtype)

    def __call__(self, rows: Sequence[Mapping[str, Any]] | Described) -> np.ndarray:
        """The scores float32 ``[n, C]``, of which ``before`` and ``after`` are read: log-probabilities or, with several
        labels, logits.
        """
        described = rows if isinstance(rows, Described) else describe(rows)
        logits = self.features.matrix(described) @ self.weights.T + self.biases
        if self.multi_label:
            most = np.log(1 / _LEAST - 1)
            return np.clip(logits, -most, most).astype(np.float32)
        return np.maximum(log_softmax(logits, axis=1), np.log(_LEAST)).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Writes two files into the folder of an adapter: the words as JSON, the numbers as safetensors."""
        terms = self.features.terms
        words = {
            "blend": self.blend,
            "removed": self.features.removed,
            "added": self.features.added,
            **{name: each.names for name, each in terms.items()},
        }
        (folder / _VOCABULARY).write_text(json.dumps(words, ensure_ascii=False) + "\n", encoding="utf-8")
        numbers = {
            "weights": self.weights,
            "biases": self.biases,
            "mean": self.features.mean,
            "scale": self.features.scale,
            **{name: each.weights for name, each in terms.items()},
            **({} if self.thresholds is None else {_THRESHOLDS: self.thresholds}),
        }
        save_file({name: np.ascontiguousarray(values) for name, values in numbers.items()}, folder / _NUMBERS)

    @classmethod
    def load(cls, folder: str | Path, num_labels: int, *, multi_label: bool) -> WordScores:
        """Reads what :meth:`save` wrote.

        Args:
            folder: of the adapter.

        Raises:
            LayerSelectError: a file is missing or damaged, or is for another number of labels.
        """
        path = Path(folder)
        words = read_json(path / _VOCABULARY, _KIND, advice=_ADVICE)
        numbers = read_tensors(path / _NUMBERS, advice=_ADVICE, framework="np")
        terms = {name: words[name] for name in TERMS if name in words}
        width = COUNTS + sum(len(each) for each in (words["removed"], words["added"], *terms.values()))
        shapes: dict[str, tuple[int, ...]] = {
            "weights": (num_labels, width),
            "biases": (num_labels,),
            "mean": (COUNTS,),
            "scale": (COUNTS,),
            **{name: (len(each),) for name, each in terms.items()},
            **({_THRESHOLDS: (num_labels,)} if _THRESHOLDS in numbers else {}),
        }
        for name, shape in shapes.items():
            found = numbers.get(name)
            if found is None or found.shape != shape or found.dtype != np.float64 or not np.isfinite(found).all():
                raise DamagedFile(path / _NUMBERS, f"it holds no finite float64 {name!r} of shape {shape}", _ADVICE)
        if not (numbers["scale"] > 0).all():
            raise DamagedFile(path / _NUMBERS, "a 'scale' is not above 0", _ADVICE)
        thresholds = numbers.get(_THRESHOLDS)
        if thresholds is not None and not ((thresholds > 0) & (thresholds < 1)).all():
            raise DamagedFile(path / _NUMBERS, "a threshold is not between 0 and 1", _ADVICE)
        features = WordFeatures(
            words["removed"],
            words["added"],
            numbers["mean"],
            numbers["scale"],
            {name: Terms(each, numbers[name]) for name, each in terms.items()},
        )
        return cls(features, numbers["weights"], numbers["biases"], multi_label, words["blend"], thresholds)


def given_offset(splits: Splits, config: IntentConfig, corpus: Corpus) -> tuple[Splits, WordBaseline | None]:
    """The splits with the scores that the examples of a run begin with, and the regression that gave them; as they are
    where the run asks for none.
    """
    if config.offset == NONE:
        return splits, None
    return with_offset(splits, len(corpus.labels), multi_label=corpus.multi_label, seed=config.split_seed)


def with_offset(splits: Splits, num_labels: int, *, multi_label: bool, seed: int) -> tuple[Splits, WordBaseline]:
    """Gives every example its scores.

    Args:
        num_labels: ``C``.
        seed: of the parts into which the training documents are dealt.

    Returns:
        The splits, and the regression on the whole training split, which scores the others.
    """
    train = splits.train
    known = train.described

    def fitted(places: Sequence[int]) -> WordBaseline:
        return WordBaseline(known.subset(places), train.targets[list(places)], num_labels, multi_label=multi_label)

    scores = np.empty((len(train), num_labels), dtype=np.float32)
    for others, part in _parts(train, seed):
        scores[part] = WordScores.of(fitted(others), multi_label=multi_label)(known.subset(part))
    whole = fitted(range(len(train)))
    known_words = WordScores.of(whole, multi_label=multi_label)
    report = [replace(split, offsets=known_words(split.described)) for split in splits.report]
    select = next((split for split in report if splits.select and split.name == splits.select.name), None)
    return replace(splits, train=replace(train, offsets=scores), report=report, select=select), whole


def _parts(train: EncodedSplit, seed: int) -> list[tuple[list[int], list[int]]]:
    """The numbers of the other examples and of its own, for each part. Documents stay whole where there are several."""
    documents = [str(row["doc_id"]) for row in train.rows]
    if len(set(documents)) < 2:
        documents = [str(number) for number in range(len(documents))]
    count = min(_PARTS, len(set(documents)))
    if count < 2:
        return [([0], [0])]  # one example alone
    return fold_places(documents, [row["intentions"] for row in train.rows], count, seed=seed)
