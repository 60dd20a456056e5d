"""Fine-tunes a decoder to write revisions, through ``transformers.Trainer`` with the selector as a callback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, TrainerCallback

from ...integrations.transformers import SelectorCallback
from ...rules import Rule
from ..run.cache_keys import keyed
from ..run.facts import kept_step, steps_per_epoch
from ..run.folder import HISTORY_ROWS, METRICS
from ..run.shared_batches import COUNTS
from ..run.state_cache import RunCache
from ..run.task import Trained
from ..run.training import MeasuredTrainer, own_callbacks, selector_options, training_arguments
from ..text.completions import CompletionCollator, CompletionSplit, completion_loss, nll
from .config import ReviseConfig

#: Of an evaluation while training, what goes into ``metrics.jsonl``.
EVALUATED = ("loss",)


class RevisionTrainer(MeasuredTrainer):
    """A Trainer whose loss is the mean over the tokens of the completions, weighted where they have weights.

    An evaluation's loss is the mean over all tokens of the split, one as much as the other, however they fall into
    batches.
    """

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor:
        with self.counted(model):
            loss, tokens = completion_loss(model, inputs)
        return self.joint(loss, tokens, inputs.get(COUNTS))

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, Tensor, Tensor]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            losses = nll(model, inputs, inputs["answer_ids"], inputs["answer_mask"])
        return None, losses, inputs["answer_mask"].sum(dim=1)


def build_trainer(
    model: nn.Module,
    tokenizer: Any,
    train: CompletionSplit,
    watch: CompletionSplit | None,
    config: ReviseConfig,
    folder: Path,
    *,
    rule: Rule,
    callbacks: list[TrainerCallback],
    state_cache: RunCache,
) -> tuple[RevisionTrainer, SelectorCallback]:
    """The Trainer of one run, and the callback that holds its selector.

    Args:
        watch: what is evaluated while training; ``None`` where nothing is.
        folder: the unfinished run; checkpoints go into its ``checkpoints``.
        rule: how layers are selected.
        callbacks: of the caller (progress, logs).
        state_cache: what the run keeps.
    """
    options = {**selector_options(config, state_cache.store), "rule": rule, "history": folder / HISTORY_ROWS}
    selector = state_cache.selector = SelectorCallback(options)
    trainer = RevisionTrainer(
        model,
        training_arguments(
            config,
            folder,
            examples=len(train),
            evaluates=watch is not None,
            metric="loss",
            greater_is_better=False,
        ),
        measure_memory=config.measure_memory,
        reader=state_cache.reader,
        train_dataset=train,
        eval_dataset=watch,
        data_collator=keyed(CompletionCollator(tokenizer.pad_token_id), model, config, completes=True),
        compute_metrics=_token_loss,
        callbacks=own_callbacks(config, selector, state_cache, *callbacks),
    )
    return trainer, selector


def _token_loss(prediction: EvalPrediction) -> dict[str, float]:
    """Sums of losses over numbers of tokens."""
    return {"loss": float(np.sum(prediction.predictions, dtype=np.float64) / np.sum(prediction.label_ids))}


def final_loss(trained: Trained, part: CompletionSplit) -> float:
    """The trained model's loss on a split, also as a line of ``metrics.jsonl``."""
    trainer, kept = trained.trainer, kept_step(trained.trainer)
    loss = trainer.predict(part, metric_key_prefix="final").metrics["final_loss"]
    line = {"split": part.name, "step": kept, "epoch": kept / steps_per_epoch(trainer), "loss": loss, "final": True}
    trained.folder.append_line(METRICS, line)
    return loss


def end_loss(trainer: RevisionTrainer) -> float | None:
    """The mean of the last tenth of the logged training losses."""
    losses: Sequence[float] = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last) if last else None
