"""Memory that runs out in a run: one sentence that says where, at which sizes, and which smaller ones to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ...data import CorpusError
from ...errors import LayerSelectError
from ...models.holding import has_bfloat16, resolve_dtype
from ...utils.launch import launched
from ...utils.memory_errors import HOST, ran_out
from ...utils.options import flag_of, options_of
from .devices import resolve_device
from .stages import BASELINES, EVALUATION, LOADING, PREDICTOR, REVISING, SCORING, TRAINING, WRITING

#: Of one trained batch or evaluated batch before the run, see :mod:`layerselect.tasks.run.trial`.
TRIED_TRAINING, TRIED_EVALUATION = "tried training", "tried evaluation"
MEASURING = "measuring"

_WHILE = {
    LOADING: "while the model was loaded",
    PREDICTOR: "while the predictor was trained",
    TRAINING: "in training",
    EVALUATION: "in the evaluation",
    REVISING: "while texts were written",
    BASELINES: "while the baselines were scored",
    SCORING: "while texts were scored",
    WRITING: "while the files were written",
    MEASURING: "while the card was measured",
    TRIED_TRAINING: "when training was tried",
    TRIED_EVALUATION: "when an evaluation was tried",
}
_TRAINS = (TRAINING, TRIED_TRAINING)
_EVALUATES = (EVALUATION, REVISING, SCORING)
#: In these no input is read by the model.
_READS_NONE = (LOADING, WRITING)
#: No shorter input says anything.
_SHORTEST = 8
#: What a run that goes on may be given anew.
_MAY_CHANGE = "; what is finished is kept, and {} may change when the run goes on"


class OutOfMemory(LayerSelectError):
    """Memory that ran out.

    Args:
        settings: of the run.
        place: :data:`~layerselect.utils.memory_errors.GPU` or ``HOST``.
        stage: what was being done: a name of a stage, or one of this module.
        sizes: at which sizes, where they are not those of the settings.
        flags: the options that the command has, by their settings; ``None``: those of the settings' class.
        more: what else to try, as it is typed.
    """

    def __init__(
        self,
        settings: Any,
        place: str,
        stage: str,
        *,
        sizes: str | None = None,
        flags: Mapping[str, str] | None = None,
        more: Sequence[str] = (),
    ) -> None:
        self.settings, self.place, self.stage, self.sizes = settings, place, stage, sizes
        named = {field.name: flag_of(type(settings), field.name) for field, _ in options_of(type(settings))}
        flags = named if flags is None else flags
        found = [*smaller(settings, place, stage, flags), *more]
        where = f"memory ran out on {place} {_WHILE.get(stage, 'in the run')}"
        at = sizes or _sizes(settings, stage, flags)
        goes_on = stage in _EVALUATES and settings.eval_batch > 1 and "eval_batch_size" in flags
        hint = _MAY_CHANGE.format(flags["eval_batch_size"]) if goes_on else ""
        super().__init__(f"{where}{f', at {at}' if at else ''}: {_joined(found)}{hint}")

    def with_flags(self, flags: Mapping[str, str]) -> OutOfMemory:
        """The same, for a command that has other options."""
        return OutOfMemory(self.settings, self.place, self.stage, sizes=self.sizes, flags=flags)


class TrialOutOfMemory(MemoryError):
    """Memory that ran out on a few examples, before the run.

    Args:
        place, stage, sizes: as for :class:`OutOfMemory`.
    """

    def __init__(self, place: str, stage: str, sizes: str) -> None:
        super().__init__(f"memory ran out on {place} at {sizes}")
        self.place, self.stage, self.sizes = place, stage, sizes


@contextmanager
def trying(stage: str, sizes: str) -> Iterator[None]:
    """Makes a :class:`TrialOutOfMemory` of an error in the block that says that memory has run out."""
    try:
        yield
    except Exception as error:
        place = ran_out(error)
        if place is None or isinstance(error, TrialOutOfMemory):
            raise
        raise TrialOutOfMemory(place, stage, sizes) from error


@contextmanager
def running_out(
    settings: Any,
    stage: str | Callable[[], str],
    *,
    flags: Mapping[str, str] | None = None,
    more: Sequence[str] = (),
) -> Iterator[None]:
    """Makes an :class:`OutOfMemory` of every error in the block that says that memory has run out, also of one that
    others have made another one of.

    Args:
        stage: what is being done, or whoever knows it when the error comes.
        flags, more: as for :class:`OutOfMemory`.
    """
    try:
        yield
    except OutOfMemory as error:
        if flags is None:
            raise
        raise error.with_flags(flags) from error
    except CorpusError:  # which has said it
        raise
    except Exception as error:
        place = ran_out(error)
        if place is None:
            raise
        if isinstance(error, TrialOutOfMemory):
            raise OutOfMemory(settings, error.place, error.stage, sizes=error.sizes, flags=flags, more=more) from error
        name = stage if isinstance(stage, str) else stage()
        raise OutOfMemory(settings, place, name, flags=flags, more=more) from error


def smaller(settings: Any, place: str, stage: str, flags: Mapping[str, str]) -> list[str]:
    """The options to try next, as they are typed, each with a value that takes less memory than the one that is set;
    what changes least comes first. None where everything is as small as it can be.

    Args:
        place, stage: as for :class:`OutOfMemory`.
        flags: the options that the command has, by their settings.
    """
    if stage == BASELINES:  # which read words, with no model
        return [f"{flags['train_size']} 50%"] if settings.train_size is None and "train_size" in flags else []
    asked: dict[str, Any] = {}
    if stage in (TRAINING, MEASURING):
        asked |= _smaller_batch(settings, accumulates="accumulate" in flags)
    if stage in _EVALUATES:
        # Where it has no option, it is twice the other one.
        name = "eval_batch_size" if "eval_batch_size" in flags else "batch_size"
        asked[name] = _half(getattr(settings, "eval_batch" if name == "eval_batch_size" else name))
        if stage in (REVISING, SCORING):
            asked["beams"] = _half(getattr(settings, "beams", 1))
    if stage in _TRAINS and settings.gradient_checkpointing == "none":
        asked["gradient_checkpointing"] = "nonreentrant"
    if stage not in _READS_NONE and hasattr(settings, "max_length"):
        shorter = settings.max_length // 2
        asked["max_length"] = shorter if shorter >= _SHORTEST else None
    if place == HOST:
        asked["workers"] = settings.workers // 2 if settings.workers else None
        if settings.state_cache != "none" and settings.state_cache_memory != "0":
            asked["state_cache_memory"] = "0"
    asked |= _fewer_bits(settings)
    return [
        " ".join(f"{flags[name]} {value}" for name, value in zip(names, values, strict=True))
        for names, values in _pairs(asked)
        if None not in values and set(names) <= set(flags)
    ]


def _pairs(asked: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], tuple[Any, ...]]]:
    """What belongs together: half the batch with twice as many of them."""
    for name, value in asked.items():
        if name == "batch_size" and "accumulate" in asked:
            yield ("batch_size", "accumulate"), (value, asked["accumulate"])
        elif name != "accumulate":
            yield (name,), (value,)


def _smaller_batch(settings: Any, *, accumulates: bool) -> dict[str, Any]:
    """The largest smaller batch of which a whole number makes the same step."""
    size = settings.batch_size
    if not accumulates:
        return {"batch_size": _half(size)}
    part = next((part for part in range(size // 2, 0, -1) if size % part == 0), None)
    if part is None:
        return {}
    return {"batch_size": part, "accumulate": settings.accumulate * (size // part)}


def _half(value: int) -> int | None:
    return value // 2 if value > 1 else None


def _fewer_bits(settings: Any) -> dict[str, Any]:
    """Ways to hold less of the model."""
    device = resolve_device(settings.device)
    found: dict[str, Any] = {}
    if settings.quantize == "none" and resolve_dtype(settings.dtype, device) == "float32":
        found["dtype"] = "bfloat16" if device == "cpu" or has_bfloat16() else "float16"
    if found.get("dtype") == "float16" and settings.adapter == "none":
        del found["dtype"]
    if settings.adapter == "none":
        found["adapter"] = "lora"
    elif settings.quantize != "4bit":
        found["quantize"] = "4bit"
    several = device == "cuda" and torch.cuda.device_count() > 1 and launched() == 1
    if several and settings.device_map == "none":
        found["device_map"] = "auto"
    return found


def _sizes(settings: Any, stage: str, flags: Mapping[str, str]) -> str:
    """At which sizes it was done, as options."""
    if stage in _EVALUATES:
        count = f"{settings.eval_batch} examples at a time"
    elif stage in (TRAINING, MEASURING):
        count = f"{flags.get('batch_size', '--batch-size')} {settings.batch_size}"
    else:
        return ""
    length = getattr(settings, "max_length", None)
    return count if length is None else f"{count} and {flags.get('max_length', '--max-length')} {length}"


def _joined(found: list[str]) -> str:
    if not found:
        return "no option makes it smaller, so choose a smaller model, or a machine with more memory"
    *first, last = found
    return f"try {', '.join(first)} or {last}" if first else f"try {last}"
