"""Which fold of a corpus is tested and how much of it trains, as they are written on a command line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import LayerSelectError


@dataclass(frozen=True)
class Fold:
    """One of several parts of a corpus that are tested in turn.

    Attributes:
        number: which one, from 1.
        of: how many there are, at least 2.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Fold:
        """Reads ``I/K``.

        Raises:
            LayerSelectError: it is no fold. The message says what one looks like.
        """
        found = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text, re.ASCII)
        number, of = map(int, found.groups()) if found else (0, 0)
        if not (of >= 2 and 1 <= number <= of):
            raise LayerSelectError(
                f"{text!r} is no fold: give its number and how many there are, as in 2/5 (1/5 is the first of five)"
            )
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True)
class TrainSize:
    """How much of a training split trains: so many rows, or a share of them.

    Attributes:
        value: rows, or a percentage.
        percent: which of both it is.
    """

    value: float
    percent: bool

    @classmethod
    def parse(cls, text: str) -> TrainSize:
        """Reads ``N`` or ``P%``.

        Raises:
            LayerSelectError: it is no size. The message says what one looks like.
        """
        found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*(%?)\s*", text, re.ASCII)
        value, percent = (float(found[1]), bool(found[2])) if found else (0.0, False)
        if not found or value <= 0 or (percent and value > 100) or (not percent and value != int(value)):
            raise LayerSelectError(
                f"{text!r} is no size of a training split: give a number of rows, as in 500, or a share, as in 10%"
            )
        return cls(value, percent)

    def rows(self, whole: int) -> float:
        """How many rows that is of a training split of ``whole``."""
        return whole * self.value / 100 if self.percent else self.value

    def __str__(self) -> str:
        return f"{self.value:g}%" if self.percent else f"{int(self.value)}"
