"""What a run records while it trains: evaluations, the training loss, seconds per step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...errors import LayerSelectError
from .folder import METRICS, TRAINING_LOG, RunFolder


class RunLog(TrainerCallback):
    """Writes ``metrics.jsonl`` (evaluations) and ``training.jsonl`` (loss, layers trained), and times the steps.

    Args:
        split: the name of the split that is evaluated while training.
        evaluated: what is kept of an evaluation.
        on_event: told of every record as it is written, as ``("train" | "eval" | "step", record)``; the command line
            draws its progress bar from it.

    Attributes:
        seconds: time of each step of this process, without evaluation and data loading.
        processor_seconds: likewise, the time that the processor worked for this process: what other programs take from
            the machine is not in it, unless they take it by way of the memory.
    """

    def __init__(
        self,
        folder: RunFolder,
        split: str | None,
        evaluated: Sequence[str],
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        self._folder, self._split, self._evaluated = folder, split, evaluated
        self._on_event = on_event or (lambda kind, record: None)
        self._started = (0.0, 0.0)
        self.seconds: list[float] = []
        self.processor_seconds: list[float] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for name in (METRICS, TRAINING_LOG):
            self._folder.keep_lines_until(name, state.global_step)
        self._on_event("step", {"step": state.global_step, "steps": state.max_steps})

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started = time.perf_counter(), time.process_time()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._started[0])
        self.processor_seconds.append(time.process_time() - self._started[1])
        self._on_event("step", {"step": state.global_step, "steps": state.max_steps})

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs.get("logs") or {}
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise LayerSelectError(
                f"the loss is {logs['loss']} at step {state.global_step}: the training has diverged, lower --lr"
            )
        record = {
            "step": state.global_step,
            "epoch": state.epoch,
            "loss": logs["loss"],
            "lr": logs.get("learning_rate"),
        }
        for key in ("num_trained", "lowest_trained"):
            if f"layerselect/{key}" in logs:
                record[key] = logs[f"layerselect/{key}"]
        self._folder.append_line(TRAINING_LOG, record)
        self._on_event("train", record)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        metrics = kwargs["metrics"]
        record = {
            "split": self._split,
            "step": state.global_step,
            "epoch": state.epoch,
            **{key: metrics[f"eval_{key}"] for key in self._evaluated},
        }
        self._folder.append_line(METRICS, record)
        self._on_event("eval", record)
