"""Intention prediction (IR-Tuning): what was the writer after with this revision?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...utils.lazy import imported_when_asked_for
from .config import IntentConfig

if TYPE_CHECKING:
    from ..run.task import RunResult
    from .dataset import Collator, EncodedSplit, Encoder, Splits, build_splits
    from .heads import ClassifierHead, Head, LabelWordHead
    from .predict import Prediction, Predictor, save_adapter
    from .results import SplitResult
    from .task import run_intent
    from .training import ClassificationTrainer, build_trainer, probabilities

__all__ = [
    "ClassificationTrainer",
    "ClassifierHead",
    "Collator",
    "EncodedSplit",
    "Encoder",
    "Head",
    "IntentConfig",
    "LabelWordHead",
    "Prediction",
    "Predictor",
    "RunResult",
    "SplitResult",
    "Splits",
    "build_splits",
    "build_trainer",
    "probabilities",
    "run_intent",
    "save_adapter",
]

#: Where the names are found; importing them reads transformers, which a help page can do without.
_PLACES = {
    "RunResult": "..run.task",
    "Collator": ".dataset",
    "EncodedSplit": ".dataset",
    "Encoder": ".dataset",
    "Splits": ".dataset",
    "build_splits": ".dataset",
    "ClassifierHead": ".heads",
    "Head": ".heads",
    "LabelWordHead": ".heads",
    "Prediction": ".predict",
    "Predictor": ".predict",
    "save_adapter": ".predict",
    "SplitResult": ".results",
    "run_intent": ".task",
    "ClassificationTrainer": ".training",
    "build_trainer": ".training",
    "probabilities": ".training",
}

__getattr__ = imported_when_asked_for(__name__, _PLACES)
