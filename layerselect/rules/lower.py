"""The layers nearest to the input."""

from __future__ import annotations

from dataclasses import dataclass

from .by_place import ByPlace


@dataclass(eq=False)
class Lower(ByPlace):
    """The layers nearest to the input, in every step. The backward pass crosses all layers.

    Args:
        p: their share of all layers, rounded to the nearest whole number (half up), at least one.
    """

    name = "lower"
    example = "lower:p=0.5"

    def layers(self, count: int, of: int) -> list[int]:
        return list(range(count))
