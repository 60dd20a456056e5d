"""Settings that are declared once: a field of a dataclass with its default, its help and its limits.

Parsers of commands, checks of configurations and pages of the documentation are made from these fields.
"""

from __future__ import annotations

import math
import numbers
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any

from ..errors import LayerSelectError
from .saved_words import in_words

_KEY = "option"


@dataclass(frozen=True)
class Option:
    """What a field is on the command line.

    Attributes:
        help: one sentence or fragment for the help page; a function of no arguments where it takes looking up.
        group: the heading under which it stands.
        flag: its option, where that is not ``--`` and the name of the field.
        known_as: what ``transformers`` and ``peft`` call it, where they do; shown first.
        metavar: the word that stands for a value in the help page.
        choices: the values that are allowed.
        least, above, most, below: limits of a number; ``None`` sets none.
    """

    help: str | Callable[[], str]
    group: str = ""
    flag: str | None = None
    known_as: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def text(self) -> str:
        """The help text."""
        return self.help if isinstance(self.help, str) else self.help()

    def problem(self, value: Any) -> str | None:
        """What is wrong with ``value``, as the end of a sentence; ``None`` if nothing is."""
        if self.choices is not None:
            return None if value in self.choices else f"is not one of {', '.join(self.choices)}"
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return None
        number: Any = value  # the comparisons of numbers.Real with float have no types
        if not math.isfinite(number):
            return "is not a finite number"
        if self.least is not None and self.below is not None:
            return None if self.least <= number < self.below else f"must be in [{self.least:g}, {self.below:g})"
        if self.least is not None and number < self.least:
            return "must not be negative" if self.least == 0 else f"must be at least {self.least:g}"
        if self.above is not None and number <= self.above:
            return f"must be above {self.above:g}"
        if self.most is not None and number > self.most:
            return f"must be at most {self.most:,.0f}" if self.most < 2**31 else f"must be at most {int(self.most)}"
        return None


def setting(default: Any = MISSING, help: str | Callable[[], str] = "", **option: Any) -> Any:
    """A field of a dataclass that is an option of commands.

    Args:
        default: its default; without one the field has to be given.
        help: see :class:`Option`.
        option: the other attributes of :class:`Option`.
    """
    return field(default=default, metadata={_KEY: Option(help, **option)})


def like(kind: type, name: str, default: Any = MISSING, **changes: Any) -> Any:
    """A field as ``kind`` has it, with another default or other attributes of its option."""
    known = {each.name: each for each in fields(kind)}[name]
    return field(
        default=known.default if default is MISSING else default,
        metadata={_KEY: replace(known.metadata[_KEY], **changes)},
    )


def options_of(kind: type) -> Iterator[tuple[Field[Any], Option]]:
    """The fields of a dataclass that are options, in their order."""
    for each in fields(kind):
        if _KEY in each.metadata:
            yield each, each.metadata[_KEY]


def flag_of(kind: type | None, name: str) -> str:
    """The option of a field: ``--`` and its name, if ``kind`` has no other for it."""
    if kind is not None:
        for each, option in options_of(kind):
            if each.name == name and option.flag is not None:
                return option.flag
    return "--" + name.replace("_", "-")


def types_of(kind: type) -> dict[str, tuple[type, bool]]:
    """The type of each field, and whether it may be ``None``. What may be of several types is taken as text."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        values = [part for part in parts if part is not type(None)]
        found[name] = (values[0] if len(values) == 1 else str, type(None) in parts)
    return found


def check_values(settings: Any, *, as_arguments: bool = False) -> None:
    """Checks every field of a configuration that is an option.

    Args:
        as_arguments: messages name the fields as a caller of the library writes them, ``lr=0``, and not ``--lr 0``.

    Raises:
        LayerSelectError: a value is of another type, is not among the choices, or is out of the limits.
    """
    kinds = types_of(type(settings))
    for each, option in options_of(type(settings)):
        value, (kind, may_be_none) = getattr(settings, each.name), kinds[each.name]
        if value is None and may_be_none:
            continue
        problem = option.problem(value) if _is(value, kind) else f"is no {_NAMES[kind]}"
        if problem is not None:
            flag = flag_of(type(settings), each.name)
            given = f"{each.name}={value!r}" if as_arguments else f"{flag} {in_words(value)}"
            raise LayerSelectError(f"{given} {problem}")


#: The types that are checked; a text may be given as a path or as what else writes itself as one.
_KINDS = {int: numbers.Integral, float: numbers.Real, bool: bool}
_NAMES = {int: "whole number", float: "number", bool: "yes or no"}


def _is(value: Any, kind: type) -> bool:
    """Whether a value is of the type that a field declares; a whole number is a number, too."""
    if kind not in _KINDS:
        return True
    return isinstance(value, _KINDS[kind]) and (kind is bool or not isinstance(value, bool))
