"""``transformers.Trainer``: one callback is the only change to a user's script."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoint import load_selector, save_selector, seal
from ..errors import LayerSelectError
from ..selector.selector import FastSelector
from ..utils.renamed import OF_SELECTOR, with_new_names
from .logs import facts_of, scores_of
from .selector_options import check_options, check_resume, options_for
from .trainer_checkpoints import (
    TRAINER_STATE,
    begun_without_selector,
    checkpoint_defect,
    instead,
    last_checkpoint,
    newest_defect,
)
from .trainer_internals import (
    Interruptions,
    LayerSelection,
    Surroundings,
    check_alone,
    is_of_training,
    link,
    look_around,
    output_folder,
    trained_module,
    unlink,
)

__all__ = ["SelectorCallback", "checkpoint_defect", "last_checkpoint"]

logger = logging.getLogger(__name__)


class SelectorCallback(TrainerCallback):
    """Selects layers in a ``Trainer``.

    ::

        trainer = Trainer(model, args, train_dataset=data, callbacks=[SelectorCallback(rule="variance")])

    The Trainer builds the optimizer while every layer still requires gradients; the callback then attaches to
    it and closes the selector's step before each optimizer step.

    **Logs.** To every line with a training loss it adds, for whatever the Trainer reports to, the state of the
    selection in that step: ``layerselect/num_trained`` and ``layerselect/lowest_trained`` (-1: none),
    ``layerselect/threshold`` where the rule cuts scores, ``layerselect/kept_share`` and ``layerselect/step_cost`` where
    it has a budget (:class:`~layerselect.CostAware`), and ``layerselect/score/0``, ``layerselect/score/1`` and so on,
    the last score of each layer measured so far. The scores of layers go to loggers only: the console and
    ``trainer_state.json`` do without (``selector.history`` has them).

    **Checkpoints.** The selector is saved inside each one (``selector.safetensors``, ``selector.json``), before the
    Trainer deletes older ones. On resuming it continues from there, and a checkpoint that is not complete is refused;
    ``resume_from_checkpoint=last_checkpoint(output_dir)`` takes the newest that is.

    **Gradient clipping** is the Trainer's (``max_grad_norm``), over the gradients of all layers that have one; it
    computes their norm in any case, so ``selector.clip_grad_norm_`` has nothing to save here. With ``fp16``, a step
    that the scaler skips leaves the selection as it is.

    Args:
        selector: a :class:`~layerselect.FastSelector` over the Trainer's model, or the arguments to build one when
            training begins.
        log_scores: whether the loggers get a value for each layer.
        resume: what to do where training resumes from a checkpoint of a run that had no selector: ``"refuse"``, or
            ``"fresh"``, with which the selector begins anew at that step. A checkpoint with a selector in it is
            continued in any case.
        options: arguments of the selector as keywords.

    Attributes:
        selector: the selector; ``None`` before training begins if it was to be built then. A selector that the
            callback built is closed when training ends (its scores and history stay readable).

    **Interruptions.** A training that ends by an exception (Ctrl-C in a notebook) closes the selector that the callback
    built, so that the model is as it was found. A Trainer takes one such callback.

    **SetFit** trains the body of its model through a Trainer, and that is where layers are selected; the head comes
    after.

    Raises:
        LayerSelectError: an argument that no selector has, or a value that none takes.
        LayerSelectError: from ``trainer.train``: the Trainer has two of these callbacks, the selector cannot be built,
            or the checkpoint to resume from is not complete, holds no selector, or one of another model or rule.
    """

    def __init__(
        self,
        selector: FastSelector | Mapping[str, Any] | None = None,
        *,
        log_scores: bool = True,
        resume: str = "refuse",
        **options: Any,
    ) -> None:
        check_resume(resume)
        self.selector: FastSelector | None = None
        self._options: dict[str, Any] | None = None  # None: the selector is the user's
        if isinstance(selector, FastSelector):
            if options:
                raise LayerSelectError(f"options {sorted(options)} cannot be added to a selector that is already built")
            self.selector = selector
        else:
            self._options = with_new_names(_merged(selector, options), OF_SELECTOR, "SelectorCallback")
            check_options(self._options, owner="SelectorCallback", of_owner=("log_scores", "resume"))
        self._log_scores = log_scores
        self._resume = resume
        self._surroundings = Surroundings(None, None)
        self._interruptions: Interruptions | None = None
        self._stepping: int | None = None  # the count of the Trainer when the selector last closed a step
        self._saved: int | None = None  # the step of the last checkpoint that the selector is in
        self._seal: str | None = None

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        found = newest_defect(output_folder(args), self._resume) if args.should_save else None
        if found is not None:
            # The Trainer would stumble over it before it asks us, with a message about a file.
            logger.warning("%s is not a complete checkpoint: %s; to resume, %s", *found, instead(found[0]))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        around = look_around(args, state)
        check_alone(around.trainer, SelectorCallback)
        self._end()  # a training of which we were not told that it has ended
        self._surroundings = around
        try:
            self._begin(args, state, kwargs)
        except BaseException:
            self._end()
            raise

    def _begin(self, args: TrainingArguments, state: TrainerState, kwargs: Mapping[str, Any]) -> None:
        around = self._surroundings
        folder = self._state_to_load(state)
        model = trained_module(kwargs)
        if self._options is not None:
            self.selector = FastSelector(model, **options_for(self._options, compiled=args.torch_compile))
        selector = self._running()
        if self._options is None:
            _check_same_parameters(selector, model)
        selector.attach(kwargs["optimizer"])
        if folder is not None:
            load_selector(selector, folder)
            logger.info("the selector continues from %s at step %d", folder, selector.steps)
        self._saved = self._stepping = None
        if around.trainer is not None:
            self._interruptions = Interruptions(around.trainer, self._end)
            first = LayerSelection(self._add_to, lambda: (self._save(args, state), self._saved))
            link(around.trainer, state, first)
        else:
            logger.warning(
                "this version of transformers hides its Trainer from callbacks: loggers like TensorBoard miss the "
                "selection, with save_total_limit a process killed while it saves may leave no checkpoint with a "
                "selector in it, and a training that an exception ends leaves its selector open until another one is "
                "built"
            )

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # With float16 the Trainer has unscaled the gradients by now, and the scaler knows whether it will skip the
        # step.
        self._running().step(grad_scale=getattr(kwargs["optimizer"], "scaler", None))
        self._stepping = state.global_step

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._surroundings.trainer is None and kwargs.get("logs") is not None:
            self._add_to(state, kwargs["logs"])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # For Trainers that save checkpoints in a way of their own and do not ask callbacks for their state.
        if args.should_save and self._saved != state.global_step:
            self._save(args, state, also=[TRAINER_STATE])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._end()

    def _running(self) -> FastSelector:
        if self.selector is None:
            raise LayerSelectError("the selector is built when training begins, and it has not begun")
        return self.selector

    def _end(self) -> None:
        if self._interruptions is not None:
            self._interruptions.close()
            self._interruptions = None
        if self._surroundings.trainer is not None:
            unlink(self._surroundings.trainer)
        self._surroundings = Surroundings(None, None)
        if self._options is not None and self.selector is not None:
            self.selector.close()

    def _state_to_load(self, state: TrainerState) -> Path | None:
        """The checkpoint that the selector continues from; ``None`` if it begins anew."""
        folder = self._surroundings.resumed_from
        if folder is None:
            return None
        if self._resume == "fresh" and begun_without_selector(folder):
            logger.warning(
                "%s holds no selector: one begins anew at step %d, as resume='fresh' says", folder, state.global_step
            )
            return None
        why = checkpoint_defect(folder)
        if why is not None:
            raise LayerSelectError(f"{folder} is not a complete checkpoint: {why}; {instead(folder)}")
        resumed = LayerSelection.seal({"stateful_callbacks": state.stateful_callbacks})
        if resumed is not None and resumed != seal(folder):
            raise LayerSelectError(
                f"training resumes at step {state.global_step} from another checkpoint than {folder}: set "
                "TrainingArguments(resume_from_checkpoint=...) to it as well"
            )
        return folder

    def _save(self, args: TrainingArguments, state: TrainerState, also: tuple[str, ...] | list[str] = ()) -> str | None:
        """Saves the selector into the checkpoint of this step, if there is one and the selector is at that step:
        between its own and the Trainer's next count it is ahead.
        """
        folder = self._surroundings.checkpoint_folder(args, state)
        if folder.is_dir() and self._stepping != state.global_step:
            self._seal = save_selector(self._running(), folder, also=also)
            self._saved = state.global_step
        return self._seal

    def _add_to(self, state: TrainerState, logs: dict[str, Any]) -> None:
        """Adds the selection to a line with a training loss; evaluations say nothing about it."""
        if not is_of_training(logs) or self.selector is None or not self.selector.steps:
            return
        facts = facts_of(self.selector)
        logs.update(facts)
        state.log_history[-1].update(facts)  # a copy of the logs, made before any callback saw them
        if self._log_scores and self._surroundings.trainer is not None:
            logs.update(scores_of(self.selector))


def _merged(given: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the mapping and the keywords together.

    Raises:
        LayerSelectError: it is no mapping, or one option is in both.
    """
    if given is None:
        return dict(options)
    if not isinstance(given, Mapping):
        raise LayerSelectError(
            f"SelectorCallback was given a {type(given).__name__}, which is neither a FastSelector nor a mapping of "
            "its arguments: write SelectorCallback(rule='variance'), for instance"
        )
    twice = sorted(set(given) & set(options), key=str)
    if twice:
        raise LayerSelectError(f"options {twice} are given twice, in the mapping and as keywords")
    return {**given, **options}


def _check_same_parameters(selector: FastSelector, model: nn.Module) -> None:
    """Raises LayerSelectError where nothing that a user's selector is over trains in ``model``."""
    here = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if not any(id(parameter) in here for parameter in selector.trainable_parameters()):
        raise LayerSelectError(
            "the selector was built over parameters that this Trainer does not train (where it makes the adapters "
            "from peft_config, or the model from model_init, that came later): give SelectorCallback the arguments "
            "of a selector, or build it over trainer.model"
        )
