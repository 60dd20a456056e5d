"""A tiny Trainer for the tests of the callback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from layerselect.integrations.transformers import SelectorCallback
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.helpers.models import VOCABULARY, hugging_face, with_lora


def dataset(count: int = 24) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, VOCABULARY, (7,), generator=generator) for _ in range(count)]
    return [{"input_ids": row, "labels": row} for row in rows]


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 8,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 4,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
    }
    return TrainingArguments(**{**settings, **changes})


def build(
    folder: Path,
    *callbacks: TrainerCallback,
    dropout: float = 0.0,
    evaluates: bool = False,
    kind: type[Trainer] = Trainer,
    examples: int = 24,
    **changes: Any,
) -> Trainer:
    model = with_lora(hugging_face("llama"), lora_dropout=dropout)
    data = dataset(examples)
    return kind(
        model,
        arguments(folder, **changes),
        train_dataset=data,
        eval_dataset=data[:4] if evaluates else None,
        callbacks=list(callbacks),
    )


def train(folder: Path, *callbacks: TrainerCallback, resume: str | bool | None = None, **changes: Any) -> Trainer:
    trainer = build(folder, *callbacks, **changes)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


class StopAfter(TrainerCallback):
    """Ends the training after so many steps, as a user would."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= state.global_step == self._step


def assert_same_end(one: tuple[Trainer, SelectorCallback], other: tuple[Trainer, SelectorCallback]) -> None:
    """The same weights, optimizer states, selections and scores, bit for bit."""
    (trainer, callback), (trainer2, callback2) = one, other
    for (name, a), b in zip(trainer.model.named_parameters(), trainer2.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert_same_values(trainer.optimizer.state_dict(), trainer2.optimizer.state_dict())
    assert torch.equal(callback.selector.frequency, callback2.selector.frequency)
    rows, rows2 = callback.selector.history.arrays(), callback2.selector.history.arrays()
    for name in rows:
        assert rows[name].tobytes() == rows2[name].tobytes(), name


def assert_same_values(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_values(one[key], other[key])
    elif isinstance(one, Sequence) and not isinstance(one, str):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same_values(a, b)
    else:
        assert one == other
