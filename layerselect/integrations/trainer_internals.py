"""What ``SelectorCallback`` needs of the ``Trainer`` that callbacks are not given; nothing else reaches into it.

A callback is told neither which Trainer calls it, nor which checkpoint that resumes from, nor is it asked for anything
at the two moments that matter here: before the loggers read a line of the log (they come before every callback of a
user's), and while a checkpoint is written (``on_save`` comes after the old ones were deleted). So:

* :func:`look_around` reads the Trainer and the checkpoint from the frames of the functions that are just calling us;
* :func:`link` puts small callbacks of ours into the Trainer's list, where they are asked in time;
* :class:`Interruptions` learns of an exception that ends the training (Ctrl-C in a notebook), which no callback is told
  of.

If a release of ``transformers`` moves these things, :func:`look_around` finds nothing, and ``SelectorCallback`` says
what it cannot do then and does the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import currentframe
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState, PrinterCallback, ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import LayerSelectError
from .logs import SCORES


@dataclass(frozen=True)
class Surroundings:
    """The Trainer that calls a callback, and the checkpoint it resumes from.

    Attributes:
        trainer: whose event is being handled; ``None`` if it is not to be seen.
        resumed_from: the checkpoint that the training resumes from; ``None`` if it begins afresh.
    """

    trainer: Trainer | None
    resumed_from: Path | None

    def checkpoint_folder(self, args: TrainingArguments, state: TrainerState) -> Path:
        """Where a checkpoint of this step belongs."""
        run = output_folder(args)
        if self.trainer is not None:  # a search over hyperparameters has a folder for each trial
            run = Path(self.trainer._get_output_dir(trial=getattr(self.trainer, "_trial", None)))
        return run / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def output_folder(args: TrainingArguments) -> Path:
    """The folder that a Trainer writes to."""
    assert args.output_dir is not None  # TrainingArguments has chosen one where none was given
    return Path(args.output_dir)


def look_around(args: TrainingArguments, state: TrainerState) -> Surroundings:
    """To be called in ``on_train_begin``: the frames below hold the Trainer as ``self``, and the one of its loop has
    the checkpoint as an argument (``True`` has become a path by then). Without them the checkpoint is guessed from what
    the Trainer publishes: ``args.resume_from_checkpoint``, or the step and ``args.output_dir``.
    """
    trainer = None
    frame = currentframe()
    try:
        while frame is not None:
            code = frame.f_code
            owner = frame.f_locals.get("self") if "self" in code.co_varnames[: code.co_argcount] else None
            if isinstance(owner, Trainer):
                trainer = owner
                if code.co_name == "_inner_training_loop" and "resume_from_checkpoint" in frame.f_locals:
                    given = frame.f_locals["resume_from_checkpoint"]
                    return Surroundings(trainer, None if given is None else Path(given))
            frame = frame.f_back
    finally:
        del frame  # a frame that knows itself is never freed
    if state.global_step == 0:
        return Surroundings(trainer, None)
    given = args.resume_from_checkpoint
    if isinstance(given, str) and given.lower() not in ("true", "false"):
        return Surroundings(trainer, Path(given))
    return Surroundings(trainer, Surroundings(trainer, None).checkpoint_folder(args, state))


def trained_module(kwargs: Mapping[str, Any]) -> nn.Module:
    """The module that the Trainer trains, out of what it gives a callback.

    SetFit gives its own object as ``model``, which is no module: its Trainer trains the ``model_body``.

    Raises:
        LayerSelectError: there is no module to be seen.
    """
    shown = kwargs.get("model")
    for model in (shown, kwargs.get("st_model"), getattr(shown, "model_body", None)):
        if isinstance(model, nn.Module):
            return model
    raise LayerSelectError(
        f"this Trainer shows its callbacks an object of the type {type(shown).__name__} as model, which is no torch "
        "module: build the selector over the module that it trains, and give SelectorCallback that selector"
    )


def check_alone(trainer: Trainer | None, kind: type[TrainerCallback]) -> None:
    """Raises LayerSelectError where the Trainer has more than one callback of this kind."""
    count = 0 if trainer is None else sum(isinstance(found, kind) for found in trainer.callback_handler.callbacks)
    if count > 1:
        raise LayerSelectError(
            f"this Trainer has {count} callbacks of the kind {kind.__name__}, and one alone can select layers: "
            "remove the others (trainer.remove_callback takes one away)"
        )


def is_of_training(logs: Mapping[str, Any]) -> bool:
    """Whether a line of the log is about training steps. SetFit calls the loss ``embedding_loss``."""
    return "loss" in logs or ("learning_rate" in logs and any(name.endswith("_loss") for name in logs))


class Interruptions:
    """Calls ``ended`` when an exception leaves a part of the training, before anybody can see the model again.

    Wraps methods of this one Trainer, and takes itself out with :meth:`close`.

    Args:
        trainer: whose training is about to begin.
        ended: what to call; the exception goes on afterwards.
    """

    #: Where a training spends its time. Older releases have no first one: theirs come nearest to it.
    _PARTS = ("_run_epoch", "_evaluate", "_finalize_training")
    _PARTS_OF_OLD = ("training_step", "_maybe_log_save_evaluate", "_evaluate")

    def __init__(self, trainer: Trainer, ended: Callable[[], None]) -> None:
        self._trainer, self._ended = trainer, ended
        self._open = True
        self._before: dict[str, Any] = {}  # what the Trainer itself held by these names, without its class
        self._ours: dict[str, Any] = {}
        for name in self._PARTS if hasattr(trainer, "_run_epoch") else self._PARTS_OF_OLD:
            if hasattr(trainer, name):
                self._before[name] = vars(trainer).get(name)
                self._ours[name] = self._watched(getattr(trainer, name))
                setattr(trainer, name, self._ours[name])

    def close(self) -> None:
        """Puts the methods back, those excepted that somebody else has wrapped meanwhile: there this does nothing any
        more.
        """
        self._open = False
        for name, ours in self._ours.items():
            if vars(self._trainer).get(name) is ours:
                delattr(self._trainer, name)
                if self._before[name] is not None:
                    setattr(self._trainer, name, self._before[name])
        self._ours = {}

    def _watched(self, part: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(part)
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                return part(*args, **kwargs)
            except BaseException:
                if self._open:
                    self._ended()
                raise

        return watched


class LayerSelection(TrainerCallback, ExportableState):
    """Stands first in the Trainer's list.

    Its name stands in ``trainer_state.json``, with the checksum that ties that file to the selector beside it.

    Args:
        add: adds the selection to the logs.
        save: saves the selector into the checkpoint that is being written, and returns the checksum and the step of it.
    """

    def __init__(
        self,
        add: Callable[[TrainerState, dict[str, Any]], None] = lambda state, logs: None,
        save: Callable[[], tuple[str | None, int | None]] = lambda: (None, None),
    ) -> None:
        # Without arguments the Trainer builds one from a checkpoint, where an error ended the training before.
        self._add, self._save = add, save

    def on_log(self, args: TrainingArguments, state: TrainerState, control: Any, logs: Any = None, **_: Any) -> None:
        self._add(state, logs)

    def state(self) -> dict[str, Any]:
        """The Trainer asks for this when the weights, the optimizer and the random states of a checkpoint are on the
        disk, its own state is not yet, and no older checkpoint has been deleted.
        """
        seal, step = self._save()
        return {"args": {}, "attributes": {"seal": seal, "step": step}}

    @classmethod
    def seal(cls, state: dict[str, Any]) -> str | None:
        """The checksum in the content of a ``trainer_state.json``."""
        return cls._noted(state).get("seal")

    @classmethod
    def saved_with(cls, state: dict[str, Any]) -> bool:
        """Whether a selector was saved with this content of a ``trainer_state.json``. A run that goes on without one
        carries along what the last one with it had noted.
        """
        return cls.__name__ in state.get("stateful_callbacks", {}) and (
            cls._noted(state).get("step", state.get("global_step")) == state.get("global_step")
        )

    @classmethod
    def _noted(cls, state: dict[str, Any]) -> dict[str, Any]:
        try:
            noted = state["stateful_callbacks"][cls.__name__]["attributes"]
        except (KeyError, TypeError):
            return {}
        return noted if isinstance(noted, dict) else {}


class _HideScores(TrainerCallback):
    """Takes the scores of the layers out of the logs, for who comes next."""

    def __init__(self) -> None:
        self.taken: dict[str, Any] = {}

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.taken = {name: logs.pop(name) for name in list(logs) if name.startswith(SCORES)}


class _ShowScores(TrainerCallback):
    """Puts them back."""

    def __init__(self, hidden: _HideScores) -> None:
        self._hidden = hidden

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        logs.update(self._hidden.taken)


def link(trainer: Trainer, state: TrainerState, first: LayerSelection) -> None:
    """Puts ``first`` in front of all callbacks, and hides the layers' scores from those that print on the console."""
    unlink(trainer)
    callbacks: list[TrainerCallback] = [first]
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, (PrinterCallback, ProgressCallback)):
            hidden = _HideScores()
            callbacks += [hidden, callback, _ShowScores(hidden)]
        else:
            callbacks.append(callback)
    # A new list: the Trainer is just walking through the old one.
    trainer.callback_handler.callbacks = callbacks
    # Without an entry for it here, the Trainer cannot save the state of a callback.
    entry: dict[str, Any] = {"args": {}, "attributes": {}}
    # TrainerState makes a dict of the list that its annotation speaks of.
    state.stateful_callbacks[LayerSelection.__name__] = entry  # type: ignore[index,call-overload]


def unlink(trainer: Trainer) -> None:
    """Takes out what :func:`link` put in."""
    ours = (LayerSelection, _HideScores, _ShowScores)
    handler = trainer.callback_handler
    handler.callbacks = [callback for callback in handler.callbacks if not isinstance(callback, ours)]
