"""``transformers.Trainer``: one callback is the only change to a user's script."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..checkpoint import load_selector, save_selector
from ..errors import LayerSelectError
from ..selector import FastSelector

logger = logging.getLogger(__name__)


class SelectorCallback(TrainerCallback):
    """Selects layers in a ``Trainer``::

        trainer = Trainer(model, args, train_dataset=data, callbacks=[SelectorCallback(rule="variance")])

    The Trainer builds the optimizer while every layer still requires gradients; the callback then attaches to
    it. Before each optimizer step it closes the selector's step, it saves the selector inside every
    checkpoint (``selector.safetensors``, ``selector.json``), continues from there under
    ``resume_from_checkpoint``, and adds to the Trainer's logs ``layerselect/num_trained``,
    ``layerselect/lowest_trained`` and ``layerselect/threshold``.

    Args:
        selector: a :class:`~layerselect.FastSelector` over the Trainer's model, or the arguments to build one when
            training begins.
        options: the same arguments as keywords.

    Attributes:
        selector: the selector; ``None`` before training begins if it was to be built then. A selector that the
            callback built is closed when training ends (its scores and history stay readable).
    """

    def __init__(self, selector: FastSelector | Mapping[str, Any] | None = None, **options: Any) -> None:
        if isinstance(selector, FastSelector):
            if options:
                raise LayerSelectError(f"options {sorted(options)} cannot be added to a selector that is already built")
            self.selector: FastSelector | None = selector
            self._options = None
        else:
            self.selector = None
            self._options = {**(selector or {}), **options}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._options is not None:
            self.selector = FastSelector(kwargs["model"], **self._options)
        assert self.selector is not None
        self.selector.attach(kwargs["optimizer"])
        checkpoint = _resumed_checkpoint(args, state)
        if checkpoint is not None:
            load_selector(self.selector, checkpoint)
            logger.info("the selector continues from %s at step %d", checkpoint, self.selector.steps)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._running().step()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            save_selector(self._running(), _checkpoint_folder(args, state))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs.get("logs")
        # Evaluation logs say nothing about the selection.
        if logs is not None and "loss" in logs and self.selector is not None and self.selector.steps:
            selected = self.selector.selected()
            ours = {
                "layerselect/num_trained": len(selected),
                "layerselect/lowest_trained": selected[0] if selected else -1,
            }
            threshold = float(self.selector.threshold)
            if threshold == threshold:  # NaN where the rule cuts no scores
                ours["layerselect/threshold"] = threshold
            logs.update(ours)
            state.log_history[-1].update(ours)  # a copy of the logs, made before the callbacks saw them

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._options is not None:
            self._running().close()

    def _running(self) -> FastSelector:
        if self.selector is None:
            raise LayerSelectError("the selector is built when training begins, and it has not begun")
        return self.selector


def _checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _resumed_checkpoint(args: TrainingArguments, state: TrainerState) -> Path | None:
    """The checkpoint that the Trainer has just resumed from."""
    if state.global_step == 0:
        return None
    given = args.resume_from_checkpoint
    if isinstance(given, str) and given.lower() not in ("true", "false"):
        return Path(given)
    # `trainer.train(resume_from_checkpoint=...)` is not told to callbacks; the step is.
    folder = _checkpoint_folder(args, state)
    if not folder.is_dir():
        raise LayerSelectError(
            f"training resumes at step {state.global_step}, but {folder} is not there to take the selector from: set "
            "TrainingArguments(resume_from_checkpoint=...) to the checkpoint as well"
        )
    return folder
