"""Checkpoints that are complete or not there, and runs that go on from them as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ...integrations.trainer_checkpoints import TRAINER_STATE
from ...models.running import unwrapped
from ...models.saved_adapter import put_back
from ...utils.folders import discard, move_into_place
from .sharded import ShardedTrainer

#: Inside the folder of the checkpoints: where one is written.
_UNFINISHED = ".unfinished"


class WholeCheckpoints(ShardedTrainer):
    """A Trainer that writes each checkpoint aside and renames it, and removes older ones after that.

    ``transformers`` writes in place and takes the newest folder for the last checkpoint, whatever it holds. Here a
    process killed at any moment leaves complete checkpoints only: the newest, and the best if that is another. Set
    ``save_total_limit`` to ``None``; this class keeps those two.

    A run continued with its settings ends as the uninterrupted one, also where ``transformers`` would train on:
    from the checkpoint of the last step (it takes one step more where that is in the middle of an epoch), and from the
    one that early stopping stopped at. The folder may have been moved in between.
    """

    _aside: str | None = None
    _ended = False  # before this process resumed

    def _get_output_dir(self, trial: Any) -> str:
        return self._aside or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        place = Path(super()._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        aside = place / _UNFINISHED
        if self.args.should_save:
            discard(aside)
        self.accelerator.wait_for_everyone()
        self._aside = str(aside)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._aside = None
        self.accelerator.wait_for_everyone()
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(place / name)  # where it will be
        if self.args.should_save:
            self.state.save_to_json(str(aside / name / TRAINER_STATE))
            move_into_place(aside / name, place / name)
            for folder in place.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
                if folder.name not in (name, f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"):
                    discard(folder)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        begin = super()._init_training_state(*args, **kwargs)
        if self.state.best_global_step is not None:
            best = Path(self._get_output_dir(None)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
            self.state.best_model_checkpoint = str(best) if best.is_dir() else None
        # What was to happen after the step of the checkpoint is written in it.
        control = self.state.stateful_callbacks.get(TrainerControl.__name__, {}).get("args", {})
        resumed = self.state.global_step > 0
        self._ended = resumed and (
            control.get("should_training_stop") or self.state.global_step >= self.state.max_steps
        )
        return begin

    def _load_weights(self, checkpoint: str, model: nn.Module | None) -> None:
        super()._load_weights(checkpoint, model)
        _put_back(Path(checkpoint), model if model is not None else self.model)

    def _load_best_weights(self) -> None:
        super()._load_best_weights()
        _put_back(Path(str(self.state.best_model_checkpoint)), self.model)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._ended:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)


def _put_back(checkpoint: Path, model: nn.Module) -> None:
    """What ``peft`` did not take from a checkpoint; see :func:`layerselect.models.saved_adapter.put_back`."""
    adapted = unwrapped(model)
    if isinstance(adapted, PeftModel) and (checkpoint / SAFETENSORS_WEIGHTS_NAME).is_file():
        put_back(checkpoint, get_peft_model_state_dict(adapted, save_embedding_layers=False))


class SaveSteps(TrainerCallback):
    """Saves every ``every`` steps besides the saves that the Trainer plans itself (0: those only).

    Not at the last step, nor where the Trainer evaluates or saves at the end of the epoch anyway: a checkpoint from
    before that evaluation would lose it to a kill in between. Every save is preceded by a line in the log, since the
    mean of the losses since the last line is in no checkpoint.
    """

    def __init__(self, every: int = 0) -> None:
        self._every = every

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        ends = float(state.epoch).is_integer() and "epoch" in (args.eval_strategy, args.save_strategy)
        if self._every and state.global_step % self._every == 0 and not ends and not control.should_training_stop:
            control.should_save = True
        control.should_log |= control.should_save

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_log |= control.should_save
