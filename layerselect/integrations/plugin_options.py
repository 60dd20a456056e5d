"""The keys of a plugin in somebody's configuration, as arguments of ``SelectorCallback``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import LayerSelectError
from .transformers import SelectorCallback

PREFIX = "layerselect_"
OPTIONS = f"{PREFIX}options"
#: Arguments of ``SelectorCallback`` that have keys of their own.
_WITH_KEYS = ("rule", "mode")
#: All keys.
KEYS = (*(PREFIX + name for name in _WITH_KEYS), OPTIONS)
#: Keys with which axolotl selects layers in a way of its own.
_LISA = ("lisa_n_layers", "lisa_step_interval")


def options_of(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``SelectorCallback`` that are in a configuration.

    Raises:
        LayerSelectError: a key or an option that nobody has, a value that none takes, or axolotl is to choose layers
            itself.
    """
    for key in configuration:
        if str(key).startswith(PREFIX.rstrip("_")) and key not in KEYS:
            raise LayerSelectError(
                f"the configuration has {key!r}, which this plugin has not: it has {', '.join(KEYS[:-1])} and "
                f"{KEYS[-1]}"
            )
    for key in _LISA:
        if configuration.get(key):
            raise LayerSelectError(
                f"the configuration has {key}, with which axolotl chooses layers itself: take it out, and write "
                f"'{PREFIX}rule: lisa' for the same method"
            )
    given = configuration.get(OPTIONS)
    if given is None:
        given = {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise LayerSelectError(f"{OPTIONS}: {given!r} is no mapping of names to values, such as 'probe_every: 50'")
    options = dict(given)
    for name in _WITH_KEYS:
        if name in options:
            raise LayerSelectError(f"{OPTIONS}: {name} has a key of its own, {PREFIX}{name}")
        if configuration.get(PREFIX + name) is not None:
            options[name] = configuration[PREFIX + name]
    SelectorCallback(**options)  # refuses what no selector takes
    return options
