"""What a saved value must be: small descriptions of JSON values and tensors, and one check that says where a value
differs.

::

    RUN = Fields({"steps": Whole(), "rule": Fields({"name": Text()})}, optional={"note": Maybe(Text())})
    check(RUN, values)  # raises Mismatch("rule.name", "is 3 and must be a text")

A description refuses what would fail later or elsewhere: other types, numbers out of range, other lengths, texts that
cannot be written. Names that it does not know are left alone unless it is closed, since a later release may have added
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from .saved_words import SURROGATE, join, shown

#: Counts of steps, bytes and tokens stay below it; a float holds it exactly.
MOST = 2**53


class Mismatch(Exception):
    """A value is not what its description says.

    Attributes:
        where: the path of keys to it, such as ``layers[3].cost.flops``; empty for the whole.
        what: what is wrong, as the end of a sentence that begins with ``where``.
    """

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where} {what}".strip())
        self.where = where
        self.what = what


class Kind:
    """A description of what a saved value must be."""

    def check(self, value: Any, where: str) -> None:
        """Raises :class:`Mismatch` where the value is another one."""
        raise NotImplementedError


def check(kind: Kind, value: Any, where: str = "") -> None:
    """Raises :class:`Mismatch` unless ``value`` is as ``kind`` says."""
    kind.check(value, where)


@dataclass(frozen=True)
class Anything(Kind):
    """Whatever a file may hold."""

    def check(self, value: Any, where: str) -> None:
        return None


@dataclass(frozen=True)
class Flag(Kind):
    """``true`` or ``false``."""

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, bool):
            raise Mismatch(where, f"is {shown(value)} and must be true or false")


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number from ``low`` to ``high``."""

    low: int = 0
    high: int = MOST

    def check(self, value: Any, where: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Mismatch(where, f"is {shown(value)} and must be a whole number")
        if not self.low <= value <= self.high:
            raise Mismatch(where, f"is {shown(value)} and must be from {self.low} to {self.high}")


@dataclass(frozen=True)
class Number(Kind):
    """A number from ``low`` to ``high``.

    Args:
        nan: whether NaN may stand for an unknown one.
    """

    low: float = -1e100
    high: float = 1e100
    nan: bool = False

    def check(self, value: Any, where: str) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Mismatch(where, f"is {shown(value)} and must be a number")
        if self.nan and isinstance(value, float) and math.isnan(value):
            return
        if not self.low <= value <= self.high:
            raise Mismatch(where, f"is {shown(value)} and must be from {self.low:g} to {self.high:g}")


@dataclass(frozen=True)
class Text(Kind):
    """A text that can be written in UTF-8.

    Args:
        least: characters that it has at least.
        of: the texts that it may be; empty: any.
    """

    least: int = 0
    of: Sequence[str] = ()

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, str):
            raise Mismatch(where, f"is {shown(value)} and must be a text")
        if SURROGATE.search(value):
            raise Mismatch(where, "holds half of a character (a lone surrogate), which no file can hold")
        if self.of and value not in self.of:
            raise Mismatch(where, f"is {shown(value)} and must be one of {', '.join(self.of)}")
        if len(value) < self.least:
            raise Mismatch(where, "is empty")


@dataclass(frozen=True)
class Names(Kind):
    """A text or a list of texts."""

    def check(self, value: Any, where: str) -> None:
        Text(least=1).check(value, where) if isinstance(value, str) else Items(Text(least=1)).check(value, where)


@dataclass(frozen=True)
class Maybe(Kind):
    """``null`` or what ``kind`` says."""

    kind: Kind

    def check(self, value: Any, where: str) -> None:
        if value is not None:
            self.kind.check(value, where)


@dataclass(frozen=True)
class Items(Kind):
    """A list whose items are of one kind.

    Args:
        kind: of every item.
        length: how many there are; ``None``: from ``least`` to ``most``.
        unique: whether no two may be alike.
    """

    kind: Kind
    length: int | None = None
    least: int = 0
    most: int = MOST
    unique: bool = False

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, (list, tuple)):
            raise Mismatch(where, f"is {shown(value)} and must be a list")
        if self.length is not None and len(value) != self.length:
            raise Mismatch(where, f"has {len(value)} items and must have {self.length}")
        if not self.least <= len(value) <= self.most:
            bound = f"at least {self.least}" if len(value) < self.least else f"at most {self.most}"
            raise Mismatch(where, f"has {len(value)} items and must have {bound}")
        for number, item in enumerate(value):
            self.kind.check(item, f"{where}[{number}]")
        if self.unique and len(set(value)) < len(value):
            twice = next(item for number, item in enumerate(value) if item in value[:number])
            raise Mismatch(where, f"holds {shown(twice)} twice")


@dataclass(frozen=True)
class Fields(Kind):
    """An object with given names.

    Args:
        needed: what it must hold.
        optional: what it may hold.
        closed: whether it holds nothing else.
    """

    needed: Mapping[str, Kind] = field(default_factory=dict)
    optional: Mapping[str, Kind] = field(default_factory=dict)
    closed: bool = False

    def check(self, value: Any, where: str) -> None:
        _check_object(value, where)
        for name in self.needed:
            if name not in value:
                raise Mismatch(where, f"holds no {name!r}")
        for name, inner in value.items():
            kind = self.needed.get(name) or self.optional.get(name)
            if kind is not None:
                kind.check(inner, join(where, name))
            elif self.closed:
                raise Mismatch(where, f"holds {shown(name)}, which does not belong there")


def fields_of(kind: type, *, most: float = 1e100, **special: Kind) -> Fields:
    """A dataclass as ``asdict`` gives it: exactly its fields, each of its type; whole numbers are counts.

    Args:
        most: what a number in it is at most.
        special: the fields whose types say too little.
    """
    simple = {"float": Number(-most, most), "int": Whole(high=max(MOST, int(most))), "str": Text(), "bool": Flag()}
    simple |= {f"list[{name}]": Items(inner) for name, inner in list(simple.items())}
    needed: dict[str, Kind] = {}
    for each in fields(kind):
        name, _, rest = str(each.type).partition(" | ")
        needed[each.name] = special.get(each.name) or (Maybe(simple[name]) if rest else simple[name])
    return Fields(needed, closed=True)


@dataclass(frozen=True)
class Mapped(Kind):
    """An object with any names, all of whose values are alike."""

    kind: Kind = field(default_factory=Anything)

    def check(self, value: Any, where: str) -> None:
        _check_object(value, where)
        for name, inner in value.items():
            self.kind.check(inner, join(where, name))


class Both(Kind):
    """A value that fits all of some descriptions."""

    def __init__(self, *kinds: Kind) -> None:
        self._kinds = kinds

    def check(self, value: Any, where: str) -> None:
        for kind in self._kinds:
            kind.check(value, where)


def _check_object(value: Any, where: str) -> None:
    if not isinstance(value, Mapping):
        raise Mismatch(where, f"is {shown(value)} and must be an object")
    for name in value:
        if not isinstance(name, str):
            raise Mismatch(where, f"holds the name {shown(name)}, which must be a text")
