"""Entries for the tests of the store: any tensors, and whether two are the same to the bit."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

FINGERPRINT = "0123456789abcdef" * 2
FACTS = {"model": "org/tiny", "cut": 2, "layers": 3, "dtype": "float32"}
BYTES_OF = {torch.float32: 4, torch.float16: 2, torch.bfloat16: 2, torch.float64: 8}


def numbered(number: int, rows: int = 3, columns: int = 4) -> tuple[Tensor, ...]:
    """An entry that can be told from those of other numbers: float32, ``[rows, columns]``."""
    return (torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns) + 1000 * number,)


def key_of(number: int) -> bytes:
    """Spread over several folders."""
    return bytes([number % 5, *number.to_bytes(15, "big")])


def raw(part: Tensor) -> bytes:
    """The bits, which tell NaN from NaN and 0.0 from -0.0."""
    return part.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(found: tuple[Tensor, ...] | None, expected: tuple[Tensor, ...]) -> bool:
    return (
        found is not None
        and len(found) == len(expected)
        and all(
            f.dtype == e.dtype and f.shape == e.shape and raw(f) == raw(e) for f, e in zip(found, expected, strict=True)
        )
    )


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Of any bits, and so with NaN of every kind, infinities, -0.0 and subnormal numbers; sometimes not contiguous."""
    dtype = draw(st.sampled_from(list(BYTES_OF)))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    size = torch.Size(shape).numel() * BYTES_OF[dtype]
    content = draw(st.binary(min_size=size, max_size=size))
    if not size:
        return torch.empty(shape, dtype=dtype)
    part = torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)
    return part.transpose(0, 1) if len(shape) > 1 and draw(st.booleans()) else part


def entries() -> st.SearchStrategy[tuple[Tensor, ...]]:
    return st.lists(tensors(), min_size=1, max_size=2).map(tuple)


def keys() -> st.SearchStrategy[bytes]:
    return st.binary(min_size=16, max_size=16)
