"""How much a model and a regression on the text weigh in the answers of a run.

The weight is that with the least *balanced* log loss on the validation split: the mean over the labels of the mean loss
of their examples, so that a rare label counts as much there as it does in macro-F1, by which the checkpoint is chosen,
too. (A logarithmic opinion pool whose weights are chosen by held-out likelihood: Heskes, NIPS 1997.)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import log_softmax

from .config import NONE, IntentConfig
from .word_scores import WordScores

#: Facts of a run whose answers are blends: the weight of the model, and whether the validation split chose it.
BLEND, CHOSEN = "blend", "blend_chosen"
#: What is chosen from.
WEIGHTS = tuple(number / 20 for number in range(1, 21))


def can_blend(config: IntentConfig) -> bool:
    """Whether a run's answers can be blends: it has a classification head, and has not learned on top of the words."""
    return config.head == "classifier" and config.offset == NONE


def best_weight(words: WordScores, logits: np.ndarray, own: np.ndarray, targets: np.ndarray) -> float:
    """The weight of the model with the least balanced log loss; of equal ones the larger.

    Args:
        words: the regression.
        logits: of the model on the validation split, ``[n, C]``.
        own: the regression's scores there, ``[n, C]``.
        targets: class numbers ``[n]`` or, with several labels, 0/1 ``[n, C]``.
    """

    def loss(weight: float) -> float:
        joined = replace(words, blend=weight).joined(logits, own)
        return balanced_log_loss(joined, targets, multi_label=words.multi_label)

    return min(reversed(WEIGHTS), key=loss)


def balanced_log_loss(logits: np.ndarray, targets: np.ndarray, *, multi_label: bool) -> float:
    """The mean, over the labels that have examples, of the mean log loss of these examples, in nats.

    With several labels each of them is a question of its own with two answers, which count alike.

    Args:
        logits: ``[n, C]``; log-probabilities are such, too.
        targets: class numbers ``[n]`` or, with several labels, 0/1 ``[n, C]``.
    """
    wide = np.asarray(logits, dtype=np.float64)
    if multi_label:
        losses = np.stack([np.logaddexp(0.0, wide), np.logaddexp(0.0, -wide)])  # of the answers no and yes
        answers = np.stack([targets == 0, targets != 0])
    else:
        losses = -log_softmax(wide, axis=1)
        answers = np.asarray(targets)[:, None] == np.arange(wide.shape[1])
    counts = answers.sum(axis=-2)
    sums = np.where(answers, losses, 0.0).sum(axis=-2)
    return float((sums[counts > 0] / counts[counts > 0]).mean())
