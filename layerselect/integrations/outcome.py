"""What a training came to: which layers a ``SelectorCallback`` selected, and what that saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from ..costs.counted import LayerCosts
from ..errors import LayerSelectError
from ..selector.savings import counted_costs, savings, savings_line
from .trainer_internals import trained_module
from .transformers import SelectorCallback

_MOST_NAMED = 4


@dataclass(frozen=True)
class Selected:
    """What became of the layers in one training.

    Attributes:
        trainer: the name of the Trainer's class.
        layer_names: qualified names, in forward order.
        frequency: in how many of the steps each layer was selected.
        facts: of :func:`layerselect.selector.savings.savings`, with ``steps`` and ``mode``.
    """

    trainer: str
    layer_names: Sequence[str]
    frequency: Sequence[int]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What was selected and saved, in sentences."""
        steps, layers = self.facts["steps"], len(self.layer_names)
        selected = sum(self.frequency) / max(1, steps)
        most = sorted(filter(self.frequency.__getitem__, range(layers)), key=lambda layer: -self.frequency[layer])
        named = ", ".join(
            f"{self.layer_names[layer]} ({self.frequency[layer] / max(1, steps):.0%})" for layer in most[:_MOST_NAMED]
        )
        mode = self.facts["mode"]
        were = "would have been selected" if mode == "observe" else "selected"
        chose = (
            f"{self.trainer}, {steps} steps in mode {mode}: {selected:.1f} of {layers} layers {were} on average, most "
            f"often {named or 'none'}"
        )
        saved = savings_line(self.facts)
        return [chose] if saved is None else [chose, saved]


class OutcomeCallback(SelectorCallback):
    """A ``SelectorCallback`` that says at the end of a training what it came to.

    It counts what layers cost before anything is frozen. Where that cannot be counted, the selector has its say, and
    the outcome does without.

    Args:
        tell: is given the outcome of each training that has ended.
        options: of ``SelectorCallback``.
    """

    def __init__(self, tell: Callable[[Selected], None], **options: Any) -> None:
        super().__init__(**options)
        self._tell = tell
        self._trainer = ""
        self._costs: LayerCosts | None = None
        self._optimizer: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._costs, self._optimizer = None, kwargs["optimizer"]
        with suppress(LayerSelectError):
            self._costs = counted_costs(trained_module(kwargs), (self._options or {}).get("layers"))
        super().on_train_begin(args, state, control, **kwargs)
        trainer = self._surroundings.trainer
        self._trainer = "Trainer" if trainer is None else type(trainer).__name__

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_end(args, state, control, **kwargs)
        if self.selector is None:
            return
        rows = self.selector.history.arrays()
        facts = {"steps": len(rows["step"]), "mode": self.selector.mode}
        if self._costs is not None:
            optimizer = getattr(self._optimizer, "optimizer", self._optimizer)
            facts |= savings(self.selector, rows, self._costs, optimizer)
        self._tell(Selected(self._trainer, self.selector.layer_names, self.selector.frequency.tolist(), facts))
