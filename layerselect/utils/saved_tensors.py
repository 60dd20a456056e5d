"""What a saved tensor must be: its type, its shape, and the range of its numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .saved_schema import Kind, Mismatch
from .saved_words import is_plain_tensor, shown


@dataclass(frozen=True)
class Numbers(Kind):
    """A tensor of torch or an array of NumPy.

    Args:
        dtype: ``bool``, ``int``, ``uint8`` or ``float``; ``int`` and ``float`` in any width.
        shape: its sizes; ``None`` stands for any.
        low, high: what a number in it is at least and at most.
        nan: whether NaN may stand in it.
        infinite: whether infinities may.
    """

    dtype: str
    shape: tuple[int | None, ...]
    low: float | None = None
    high: float | None = None
    nan: bool = True
    infinite: bool = True

    def check(self, value: Any, where: str) -> None:
        if not is_plain_tensor(value):
            raise Mismatch(where, f"is {shown(value)} and must be a dense tensor of numbers")
        kind = str(value.dtype).removeprefix("torch.")
        if kind != self.dtype and (kind == "bool" or not _is_a(kind, self.dtype)):
            raise Mismatch(where, f"is {shown(value)} and must be a tensor of {self.dtype}")
        shape = tuple(value.shape)
        if len(shape) != len(self.shape) or any(w not in (None, s) for w, s in zip(self.shape, shape, strict=True)):
            wanted = ", ".join("n" if size is None else str(size) for size in self.shape)
            raise Mismatch(where, f"is {shown(value)} and must be of shape [{wanted}]")
        if kind != "bool" and math.prod(shape):
            self._check_values(value.reshape(-1), where)

    def _check_values(self, value: Any, where: str) -> None:
        unknown = value != value
        if not self.nan and bool(unknown.any()):
            raise Mismatch(where, "holds NaN, which is no number")
        known = value[~unknown]
        if not len(known):
            return
        low, high = known.min().item(), known.max().item()
        if not self.infinite and (math.isinf(low) or math.isinf(high)):
            raise Mismatch(where, "holds an infinite number")
        for found, wrong in (
            (low, self.low is not None and low < self.low),
            (high, self.high is not None and high > self.high),
        ):
            if wrong:
                bounds = f"from {self.low} to {self.high}" if self.high is not None else f"at least {self.low}"
                raise Mismatch(where, f"holds {shown(found)}, and its numbers must be {bounds}")


def _is_a(dtype: str, wanted: str) -> bool:
    names = {
        "float": ("float16", "float32", "float64", "bfloat16"),
        "int": ("int8", "int16", "int32", "int64", "uint8"),
    }
    return dtype in names.get(wanted, ())
