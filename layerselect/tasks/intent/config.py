"""Everything one run of the intention task depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import LayerSelectError
from ...utils.options import check_values, setting
from ..run.headings import READS, TRAINING, TRAINS
from ..run.settings import TrainingSettings
from ..text.formats import TOKENS, InputFormat

#: What the predictor's logits begin with.
NONE, WORDS = "none", "words"
#: How much the model weighs in its answers: as the validation split has it.
AUTO = "auto"
#: What suits the demo's small model, which starts from random weights: no adapter, and the whole passage to read. The
#: changed words of its corpus tell nothing.
DEMO_DEFAULTS: dict[str, Any] = {
    "adapter": "none",
    "window": 30,
    "dropout": 0.1,
    "batch_size": 32,
    "lr": 7e-4,
    "epochs": 4.0,
    "blend": NONE,
}


@dataclass(frozen=True)
class IntentConfig(TrainingSettings):
    """One run. The defaults are the settings that were measured (see the documentation's page of measurements).

    ``format`` to ``summary`` are those of :class:`~layerselect.tasks.text.formats.InputFormat`. ``head`` is explained
    in :mod:`layerselect.tasks.text.verbalizer`, and ``class_weights`` in
    :func:`layerselect.tasks.intent.training.class_weights`. ``max_length`` is a number once the settings are made.
    """

    demo_defaults = DEMO_DEFAULTS

    format: str = setting(
        "edits",
        "pair: both texts; plain: an instruction; contextual: an instruction with the text around; edits: the changed "
        "words marked in a window",
        group=READS,
        metavar="NAME",
    )
    window: int = setting(4, "edits: words of context on each side of an edit", group=READS, metavar="N", least=0)
    gap: int = setting(1, "edits: edits this close together are shown as one", group=READS, metavar="N", least=0)
    cap: int = setting(12, "edits: words shown of a long run of changed words", group=READS, metavar="N", least=2)
    summary: bool = setting(True, "edits: put the kind and size of the edit in front", group=READS)
    max_length: int | None = setting(
        None,
        "longer inputs are cut, in tokens; without this option "
        + ", ".join(f"{name}: {tokens}" for name, tokens in TOKENS.items()),
        group=READS,
        metavar="N",
        least=1,
    )
    head: str = setting(
        "classifier",
        "classifier: a classification head on the model; generate: a decoder writes the label's words",
        group=TRAINS,
        choices=("classifier", "generate"),
    )
    offset: str = setting(
        NONE,
        "words: add the log-probabilities of a logistic regression on the changed words to the model's logits, so that "
        "it learns what the words leave open",
        group=TRAINS,
        choices=(NONE, WORDS),
    )
    blend: float | str = setting(
        AUTO,
        "answer with the model's log-probabilities times W and, times 1 - W, those of a logistic regression on the "
        "words and letters of the text; auto: with the W that suits the validation split; none: with the model alone. "
        "The training is the same",
        group=TRAINS,
        metavar="W",
        above=0,
        most=1,
    )
    class_weights: str = setting(
        "sqrt",
        "weights of the classes in the loss: by the inverse of their counts (balanced), its square root, or all alike",
        group=TRAINING,
        choices=("none", "sqrt", "balanced"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.input_format()
        if self.max_length is None:
            object.__setattr__(self, "max_length", TOKENS[self.format])
        if isinstance(self.blend, str) and self.blend not in (AUTO, NONE):
            try:
                object.__setattr__(self, "blend", float(self.blend))
            except ValueError:
                raise LayerSelectError(f"--blend {self.blend} is neither {AUTO} nor {NONE} nor a number") from None
            check_values(self)
        values = {"--offset": self.offset, "--blend": self.blend}
        asked = [f"{option} {value}" for option, value in values.items() if value not in (NONE, AUTO)]
        if len(asked) > 1:
            raise LayerSelectError(f"{' and '.join(asked)} both bring in a regression: give one of them")
        if asked and self.head != "classifier":
            raise LayerSelectError(f"{asked[0]} needs the logits of a classification head: use --head classifier")

    def without_effect(self) -> list[str]:
        marked = "" if self.format == "edits" else f"--format {self.format}"
        return [*super().without_effect(), *self._changed(dict.fromkeys(("window", "gap", "cap", "summary"), marked))]

    def input_format(self) -> InputFormat:
        return InputFormat(self.format, window=self.window, gap=self.gap, cap=self.cap, summary=self.summary)
