"""The layers in the middle."""

from __future__ import annotations

from dataclasses import dataclass

from .by_place import ByPlace


@dataclass(eq=False)
class Middle(ByPlace):
    """The layers in the middle, in every step. Where they cannot stand exactly there, one layer nearer to the output.

    Args:
        p: their share of all layers, rounded to the nearest whole number (half up), at least one.
    """

    name = "middle"
    example = "middle:p=0.5"

    def layers(self, count: int, of: int) -> list[int]:
        first = (of - count + 1) // 2
        return list(range(first, first + count))
