"""How much a model and a regression on the text weigh in the answers of a run.

The weight is chosen on the validation split by log loss, with the rule of one standard error (Breiman, Friedman, Olshen
and Stone, Classification and Regression Trees, 1984): of all weights that can hardly be told from the best one, the
one that trusts the model least is taken. The split is small, and it has chosen the model's checkpoint before, so the
model looks better there than it is. (Logarithmic opinion pools with weights chosen by held-out likelihood: Heskes, NIPS
1997.)
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
