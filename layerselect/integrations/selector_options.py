"""The arguments of a selector, checked as far as they can be while there is no model yet.

Whoever builds a selector later (a callback, when training begins) refuses a wrong argument at once, and not when a
model has been loaded and data prepared. What only the model can tell is left to :class:`~layerselect.FastSelector`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from .. import _backend
from ..core.history_file import check_history
from ..core.schedule import Schedule
from ..core.scores import SCORE_FORMS
from ..errors import LayerSelectError
from ..modes.resolve import CAPTURES, MODES, resolve_lag
from ..modes.state_reset import check_on_freeze
from ..rules import Rule, make_rule
from ..selector.budgeted import check_budget, with_budget
from ..selector.selector import FastSelector
from ..state_cache import StateStore
from ..state_cache.cut import check_cut_text, is_number
from ..state_cache.selection import STATE_CACHES
from ..utils.arguments import check_choice

_PARAMETERS = inspect.signature(FastSelector).parameters
#: What may be given as an option: the arguments of a selector, its model apart.
NAMES = [name for name in _PARAMETERS if name != "model"]
#: What to do with a checkpoint that a run without a selector saved.
RESUMES = ("refuse", "fresh")


def check_options(options: Mapping[str, Any], *, owner: str, of_owner: Sequence[str] = ()) -> None:
    """Refuses arguments that no selector has, and values that none takes.

    Args:
        options: arguments of :class:`~layerselect.FastSelector` other than the model.
        owner: who was given them, for the message.
        of_owner: further arguments that ``owner`` has, which are no arguments of a selector.

    Raises:
        LayerSelectError: naming the argument, with the nearest name where there is one, or what may be given.
    """
    for name in options:
        if name not in NAMES:
            raise LayerSelectError(f"{owner} has no option {name!r}: {_instead(name, options, owner, of_owner)}")
    for name, check in _CHECKS.items():
        if name in options:
            check(name, options[name])
    given = {name: _PARAMETERS[name].default for name in NAMES} | dict(options)
    _check_together(given)


def check_resume(resume: Any) -> None:
    """Raises LayerSelectError unless ``resume`` is one of :data:`RESUMES`."""
    if not isinstance(resume, str) or resume not in RESUMES:
        raise LayerSelectError(f"resume={resume!r} is none of {', '.join(map(repr, RESUMES))}")


def options_for(options: Mapping[str, Any], *, compiled: bool) -> dict[str, Any]:
    """The options for a model that may be compiled in a way that cannot be seen on it, so that ``auto`` could not
    know.
    """
    if compiled and options.get("mode", "auto") == "auto":
        return {**options, "mode": "gate"}
    return dict(options)


def _instead(name: Any, options: Mapping[str, Any], owner: str, of_owner: Sequence[str]) -> str:
    """What to write in the place of ``name``, as the end of a sentence."""
    if name == "model":
        return "the model is the Trainer's"
    if name in of_owner:
        return f"{name}= is an argument of {owner} itself, beside those of the selector"
    rule = options.get("rule", _PARAMETERS["rule"].default)
    if isinstance(rule, str):
        rule = make_rule(rule)
    if is_dataclass(rule) and name in [field.name for field in fields(rule)]:
        return f"it is one of the rule, which is given with it: rule='{getattr(rule, 'name', '')}:{name}=...'"
    known = [*NAMES, *of_owner]
    near = get_close_matches(str(name), known, 1)
    return f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"


def _check_together(given: Mapping[str, Any]) -> None:
    """What has a meaning only with certain modes; in ``auto`` the model decides which one it is."""
    mode = given["mode"]
    if mode != "auto":
        check_on_freeze(given["on_freeze"], mode)
        if given["state_cache"] != "none" and mode != "freeze":
            raise LayerSelectError(
                f"state_cache={given['state_cache']!r} needs mode='freeze', in which the layers below the cut take "
                f"no gradients; here the mode is {mode!r}"
            )
    caches = given["state_cache"] != "none"
    with_budget(given["rule"], given["cut"], given["budget"], caches=caches, mode="freeze", seed=given["seed"])


def _one_of(*choices: str) -> Callable[[str, Any], None]:
    return lambda name, value: check_choice(name, value, choices)


def _whole(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise LayerSelectError(f"{name}={value!r} is not a whole number")


def _schedule(name: str, value: Any) -> None:
    Schedule(**{name: value})


def _lag(name: str, value: Any) -> None:
    resolve_lag(value, torch.device("cpu"))


def _on_freeze(name: str, value: Any) -> None:
    check_on_freeze(value, "freeze")


def _computes(name: str, value: Any) -> None:
    if value != "auto":  # "auto" takes what there is for the model's device
        _backend.resolve(value)


def _layers(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise LayerSelectError(f"layers={value!r} is neither a path nor a regular expression: {error}") from None
        return
    if not isinstance(value, Sequence) or not value or not all(isinstance(item, (str, nn.Module)) for item in value):
        raise LayerSelectError(
            f"layers={value!r} is not a path, a regular expression or a list of names or modules; layers are chosen "
            "by number with rule='fixed:layers=[...]'"
        )


def _budget(name: str, value: Any) -> None:
    check_budget(value)


def _cut(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, str, Rule)):
        raise LayerSelectError(f"cut={value!r} is neither a number of layers nor a rule")
    if isinstance(value, str) and not is_number(value):
        try:
            check_cut_text(value)
        except LayerSelectError as error:
            raise LayerSelectError(f"the cut: {error}") from error
    elif not isinstance(value, Rule) and int(value) < 0:
        raise LayerSelectError(f"cut={value!r} is no number of layers")


def _store(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, StateStore):
        raise LayerSelectError(f"state_cache_store={value!r} is not a layerselect.state_cache.StateStore")


def _history(name: str, value: Any) -> None:
    check_history(value)


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "budget": _budget,
    "layers": _layers,
    "score": _one_of(*SCORE_FORMS),
    "mode": _one_of("auto", *MODES),
    "interval": _schedule,
    "warmup": _schedule,
    "probe_every": _schedule,
    "lag": _lag,
    "on_freeze": _on_freeze,
    "capture": _one_of("auto", *CAPTURES),
    "backend": _computes,
    "seed": _whole,
    "state_cache": _one_of(*STATE_CACHES),
    "cut": _cut,
    "state_cache_store": _store,
    "history": _history,
}
