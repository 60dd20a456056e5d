"""Layers all over the model, at equal distances."""

from __future__ import annotations

from dataclasses import dataclass

from .by_place import ByPlace


@dataclass(eq=False)
class Uniform(ByPlace):
    """Layers all over the model, at equal distances, the last one among them, in every step.

    Args:
        p: their share of all layers, rounded to the nearest whole number (half up), at least one.
    """

    name = "uniform"
    example = "uniform:p=0.5"

    def layers(self, count: int, of: int) -> list[int]:
        return [(number + 1) * of // count - 1 for number in range(count)]
