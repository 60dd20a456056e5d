"""Arguments that had another name in an earlier version: taken, with a warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Arguments by their old names.
OF_SELECTOR = {"trunk": "state_cache", "trunk_store": "state_cache_store"}
OF_MEASURE = {"probes": "directions"}
#: Options of rules, by the name of the rule.
OF_RULES = {"ist": {"probes": "ablations"}}
#: Names of the package.
OF_PACKAGE = {"SuppressionProbe": "Ablation"}


def with_new_names(given: dict[str, Any], names: dict[str, str], owner: str) -> dict[str, Any]:
    """The arguments with every old name replaced.

    Args:
        given: arguments by name.
        names: the new name of each old one.
        owner: whose arguments they are, for the warning.

    Raises:
        TypeError: an argument is given under both of its names.
    """
    for old, new in names.items():
        if old in given:
            if new in given:
                raise TypeError(f"{owner}: {old}= is the old name of {new}=: give one of them")
            warnings.warn(f"{owner}: {old}= is called {new}= now", FutureWarning, stacklevel=3)
            given = {new if name == old else name: value for name, value in given.items()}
    return given


def takes_old_names(names: dict[str, str], owner: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A decorator: the function is called with the new names, whichever it is given."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def renamed(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if names.keys() & kwargs.keys():
                kwargs = with_new_names(kwargs, names, owner)  # type: ignore[assignment]
            return function(*args, **kwargs)

        return renamed

    return decorate
