"""Intention prediction (IR-Tuning): what was the writer after with this revision?"""

from ..run.task import RunResult
from .config import IntentConfig
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
