"""Everything one run of the intention task depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..run.settings import TrainingSettings, check, one_of
from ..text.formats import InputFormat

HEADS = ("classifier", "generate")
CLASS_WEIGHTS = ("none", "sqrt", "balanced")


#: What suits the demo's small model, which starts from random weights: no adapter, and nothing but the edit to read.
DEMO_DEFAULTS: dict[str, Any] = {"adapter": "none", "window": 0, "dropout": 0.1, "lr": 7e-4, "epochs": 10.0}


@dataclass(frozen=True)
class IntentConfig(TrainingSettings):
    """One run. The defaults are the settings measured in the README; for what is not listed here see
    :class:`~layerselect.tasks.run.settings.TrainingSettings`.

    Attributes:
        format, window, gap, cap, summary: see ``layerselect.tasks.text.formats``.
        max_length: longer inputs are cut, in tokens.
        head: ``classifier`` puts a classification head on the model; ``generate`` lets a decoder write the label's
            words after the input (see ``layerselect.tasks.text.verbalizer``).
        class_weights: weights of the classes in the loss: ``balanced`` goes by the inverse of their counts,
            ``sqrt`` by its square root.
    """

    format: str = "edits"
    window: int = 4
    gap: int = 1
    cap: int = 12
    summary: bool = True
    max_length: int = 64
    head: str = "classifier"
    class_weights: str = "sqrt"

    def __post_init__(self) -> None:
        one_of("head", self.head, HEADS)
        one_of("class_weights", self.class_weights, CLASS_WEIGHTS)
        check(self.max_length >= 1, "max_length", self.max_length, "must be at least 1")
        super().__post_init__()
        self.input_format()

    def input_format(self) -> InputFormat:
        return InputFormat(self.format, window=self.window, gap=self.gap, cap=self.cap, summary=self.summary)
