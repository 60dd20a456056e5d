"""How much a model and a regression on the text weigh in the answers of a run, and from which probability on a label
is answered where there may be several.

The weight is chosen on the validation split by log loss, with the rule of one standard error (Breiman, Friedman, Olshen
and Stone, Classification and Regression Trees, 1984): of all weights that can hardly be told from the best one, the
one that trusts the model least is taken. The split is small, and it has chosen the model's checkpoint before, so the
model looks better there than it is. (Logarithmic opinion pools with weights chosen by held-out likelihood: Heskes, NIPS
1997.)

Where an example may have several labels, a half is too high a threshold for rare ones: they are hardly ever answered,
and each counts as much as any other in macro-F1. The threshold of a label is what makes its expected F1 greatest,
within bounds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import expit, log_softmax

from .config import NONE, IntentConfig
from .word_scores import WordScores

#: Facts of a run whose answers are blends: the weight of the model, whether the validation split chose it, and the
#: thresholds by label, where there may be several.
BLEND, CHOSEN, THRESHOLDS = "blend", "blend_chosen", "thresholds"
#: What is chosen from. The regression always has a part.
WEIGHTS = tuple(number / 20 for number in range(1, 20))
#: How many times as often as the training split has a label it may be answered.
MOST_ANSWERED = 1.5


def can_blend(config: IntentConfig) -> bool:
    """Whether a run's answers can be blends: it has a classification head, and has not learned on top of the words."""
    return config.head == "classifier" and config.offset == NONE


def best_weight(words: WordScores, logits: np.ndarray, own: np.ndarray, targets: np.ndarray) -> float:
    """The smallest weight of the model whose log loss is within one standard error of the least.

    Args:
        words: the regression.
        logits: of the model on the validation split, ``[n, C]``.
        own: the regression's scores there, ``[n, C]``.
        targets: class numbers ``[n]`` or, with several labels, 0/1 ``[n, C]``.
    """
    losses = np.stack(
        [
            log_losses(replace(words, blend=weight).joined(logits, own), targets, multi_label=words.multi_label)
            for weight in WEIGHTS
        ]
    )
    more = losses - losses[losses.mean(axis=1).argmin()]  # paired by example
    error = more.std(axis=1) / np.sqrt(more.shape[1])
    return WEIGHTS[int((more.mean(axis=1) <= error).argmax())]


def best_thresholds(logits: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The probability of each label from which on it is answered, float64 ``[C]``, above 0 and at most 0.5.

    Where the k most probable of n examples are answered, :func:`expected_f1` can be greatest with a rare label answered
    everywhere (Lipton, Elkan and Naryanaswamy, Optimal Thresholding of Classifiers to Maximize F1 Measure, ECML PKDD
    2014), and where probabilities are too high, as those of a loss that weighs rare labels up. So it is made as great
    as it can be with k / n of at most :data:`MOST_ANSWERED` times the share of the label in the training split, or with
    one answer. Where that leaves nothing, as of a label that the training split lacks, the threshold is 0.5.

    No label of the n examples is looked at: where they are rare, a validation split has too few to choose by.

    Args:
        logits: of the answers, one column for each label: ``[n, C]`` with n of at least 1.
        shares: how much of the training split has each label, ``[C]``.
    """
    falling = -np.sort(-expit(np.asarray(logits, dtype=np.float64)), axis=0)
    following = np.vstack([falling[1:], np.zeros_like(falling[:1])])
    answered, f1 = np.arange(1, len(falling) + 1)[:, None], expected_f1(falling)
    most = np.maximum(MOST_ANSWERED * len(falling) * np.asarray(shares), np.asarray(shares) > 0)
    f1[(answered > most) | (falling == following)] = 0.0  # no threshold lies between equal ones
    best = f1.argmax(axis=0)[None]
    between = (np.take_along_axis(falling, best, axis=0) + np.take_along_axis(following, best, axis=0))[0] / 2
    thresholds: np.ndarray = np.where(f1.max(axis=0) > 0, np.minimum(between, 0.5), 0.5)
    return thresholds


def expected_f1(falling: np.ndarray) -> np.ndarray:
    """About the expected F1 where the first k of n examples are answered, for each k of 1 to n, float64 ``[n, C]``:
    ``2 * (sum of their probabilities) / (k + sum of all probabilities)``.

    Args:
        falling: the probabilities of each label, the largest first, float64 ``[n, C]``.
    """
    answered = np.arange(1, len(falling) + 1)[:, None]
    found: np.ndarray = 2 * falling.cumsum(axis=0) / (answered + falling.sum(axis=0))
    return found


def log_losses(logits: np.ndarray, targets: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """The log loss of each example in nats, float64 ``[n]``; with several labels the mean over these.

    Args:
        logits: ``[n, C]``; log-probabilities are such, too.
        targets: class numbers ``[n]`` or, with several labels, 0/1 ``[n, C]``.
    """
    wide = np.asarray(logits, dtype=np.float64)
    if multi_label:
        each: np.ndarray = np.logaddexp(0.0, np.where(targets != 0, -wide, wide)).mean(axis=1)
        return each
    found: np.ndarray = -log_softmax(wide, axis=1)[np.arange(len(wide)), targets]
    return found
