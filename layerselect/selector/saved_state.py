"""Whether a saved selector state belongs to a selector, and what was changed since."""

from __future__ import annotations

import logging
from typing import Any

from ..errors import LayerSelectError
from ..utils.saved_schema import Anything, Fields, Items, Mapped, Text, Whole, check
from ..utils.saved_words import in_words, shown

logger = logging.getLogger(__name__)

STATE_VERSION = 1
_IDENTITY = Fields(
    {
        "layer_names": Items(Text(), least=1),
        "score": Text(),
        "lag": Whole(),
        "step": Whole(),
        "rule": Fields({"name": Text(), "config": Mapped(), "state": Mapped()}),
        "core": Mapped(),
        "history": Mapped(),
    },
    optional={"settings": Mapped()},
)

#: Attributes of a selector and of its schedule that may change when a run is resumed. A warning names the change.
_OF_SELECTOR = ("mode", "capture", "on_freeze", "budget")
_OF_SCHEDULE = ("interval", "warmup", "probe_every")


def settings_of(selector: Any) -> dict[str, Any]:
    """What a selector was built with, as JSON values, as far as a resumed run may differ in it."""
    found = {name: getattr(selector, name) for name in _OF_SELECTOR if hasattr(selector, name)}
    found.update({name: getattr(selector.schedule, name) for name in _OF_SCHEDULE})
    return {name: _plain(value) for name, value in found.items()}


def say_what_changed(state: dict[str, Any], *, settings: dict[str, Any], rule: dict[str, Any]) -> None:
    """Logs one warning if a run goes on with other settings than it was saved with; a state of an earlier release knows
    only those of its rule.

    Args:
        settings: of the selector, from :func:`settings_of`.
        rule: the configuration of its rule.
    """
    saved = state.get("settings", {})
    changes = [
        *_changes(f"{state['rule']['name']}:", state["rule"]["config"], rule),
        *_changes("", {name: saved[name] for name in saved if name in settings}, settings if saved else {}),
    ]
    if changes:
        logger.warning(
            "the selector goes on with other settings than it was saved with (saved -> now): %s", ", ".join(changes)
        )


def _changes(where: str, saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, in words. What only one of them has was added or removed by a release, unless it has a value."""
    saved, now = _plain(saved), _plain(now)
    names = [*saved, *(name for name in now if name not in saved)]
    return [
        f"{where}{name} {_written(saved.get(name))} -> {_written(now.get(name))}"
        for name in names
        if _differ(saved.get(name), now.get(name))
    ]


def _differ(one: Any, other: Any) -> bool:
    try:
        return bool(one != other)
    except (RuntimeError, ValueError, TypeError):  # tensors and arrays have no one answer
        return True


def _written(value: Any) -> str:
    return repr(in_words(value)) if isinstance(value, str) else in_words(value)


def _plain(value: Any) -> Any:
    """A value as JSON gives it back: tuples are lists, keys are text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def check_state(state: dict[str, Any], *, layer_names: list[str], rule: str, score: str, lag: int) -> None:
    """Compares what a state was saved with and what it is loaded into.

    Raises:
        Mismatch: it is no state of a selector.
        LayerSelectError: another version, other layers, another rule, score form or lag.
    """
    check(Fields({"version": Anything()}), state)
    if state["version"] != STATE_VERSION:
        raise LayerSelectError(
            f"the selector state has version {shown(state['version'])}, this release reads {STATE_VERSION}"
        )
    check(_IDENTITY, state)
    if state["layer_names"] != layer_names:
        theirs = state["layer_names"]
        raise LayerSelectError(
            f"the selector state is of another model: it has {len(theirs)} layers from {shown(theirs[0])} on, this "
            f"model has {len(layer_names)} from {layer_names[0]!r} on"
        )
    for what, theirs, ours in (
        ("rule", state["rule"]["name"], rule),
        ("score", state["score"], score),
        ("lag", state["lag"], lag),
    ):
        if theirs != ours:
            raise LayerSelectError(
                f"the selector state was saved with {what} {shown(theirs)}, this selector has {ours!r}"
            )
