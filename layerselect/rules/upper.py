"""The layers nearest to the output."""

from __future__ import annotations

from dataclasses import dataclass

from .by_place import ByPlace


@dataclass(eq=False)
class Upper(ByPlace):
    """The layers nearest to the output, in every step.

    Args:
        p: their share of all layers, rounded to the nearest whole number (half up), at least one.
    """

    name = "upper"
    example = "upper:p=0.5"

    def layers(self, count: int, of: int) -> list[int]:
        return list(range(of - count, of))
