"""One entry of a store as bytes: a header of fixed length, then the raw numbers.

The header says what the numbers are and whose they are, and holds a checksum of all the rest, itself included but for
the checksum: an entry that was cut short, altered, or put in another one's place is found out. All integers are
little-endian.

    bytes   0   8  magic
            8   2  version
           10   1  1 if the numbers are little-endian, 0 if they are big-endian
           11   1  number of parts, 1 or 2
           12   4  zero
           16  16  key
           32  72  first part: dtype (1 byte), dimensions (1 byte), zero (6 bytes), shape (8 bytes for each of 8)
          104  72  second part, zero if there is none
          176  16  checksum (BLAKE2b) of bytes 0 to 175 and of the numbers
          192   …  the numbers of the first part, then those of the second
"""

from __future__ import annotations

import hashlib
import math
import struct
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

KEY_BYTES = 16
HEADER_BYTES = 192

_MAGIC = b"LSTRUNK\n"
_VERSION = 1
_MOST_PARTS = 2
_MOST_DIMENSIONS = 8
#: No file is so long. A shape with a 0 in it needs no bytes whatever its other sizes are; those are held to it, too.
_MOST_BYTES = 2**48
_START = struct.Struct(f"<8sHBBxxxx{KEY_BYTES}s")
_PART = struct.Struct(f"<BBxxxxxx{_MOST_DIMENSIONS}Q")
_CHECKSUM_BYTES = 16
_CHECKSUM_AT = HEADER_BYTES - _CHECKSUM_BYTES
_LITTLE = int(sys.byteorder == "little")

_CODES = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3, torch.float64: 4}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


class DamagedEntry(Exception):
    """Bytes that are not the entry that was asked for.

    Attributes:
        source: where they come from.
        reason: what is wrong with them, as part of a sentence.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason


def encode(key: bytes, parts: Sequence[Tensor]) -> list[memoryview]:
    """The bytes of an entry, as buffers that are to be written one after the other.

    Args:
        key: 16 bytes.
        parts: 1 or 2 tensors on the CPU; float32, float16, bfloat16 or float64; of any shape of at most 8 dimensions.

    Returns:
        The header, then a buffer for each part, which is a view of the tensor where that is contiguous: the tensor must
        not be written to before the buffers are.

    Raises:
        ValueError: a key or parts of another kind.
    """
    check(key, parts)
    numbers = [_as_bytes(part.detach().contiguous()) for part in parts]
    header = _START.pack(_MAGIC, _VERSION, _LITTLE, len(parts), key)
    for part in parts:
        sizes = [*part.shape, *([0] * (_MOST_DIMENSIONS - part.dim()))]
        header += _PART.pack(_CODES[part.dtype], part.dim(), *sizes)
    header = header.ljust(_CHECKSUM_AT, b"\0")
    return [memoryview(header + _checksum(header, numbers)), *numbers]


def decode(buffer: Any, key: bytes, source: str) -> tuple[Tensor, ...]:
    """The parts of the entry in ``buffer``.

    Args:
        buffer: anything with the buffer protocol. The parts are copies: it may be closed or changed afterwards.
        key: the entry that is expected there.
        source: where the bytes come from, for the error.

    Raises:
        DamagedEntry: the bytes are not an entry, not whole, not unaltered, or the entry of another key.
    """
    # Released in every case: a memory map with a view of it cannot be closed.
    with memoryview(buffer) as view, view.cast("B") as raw:
        if len(raw) < HEADER_BYTES:
            raise DamagedEntry(source, f"it has {len(raw)} bytes, fewer than a header")
        header = bytes(raw[:HEADER_BYTES])
        layouts = _layouts(header, key, len(raw), source)
        # What is checked is the copy, which nobody else can change, and not the buffer, which may be a file.
        parts = []
        start = HEADER_BYTES
        # Tensors made in inference mode could not be used in training later.
        with torch.inference_mode(False):
            for dtype, shape in layouts:
                part = torch.empty(shape, dtype=dtype)
                numbers = _as_bytes(part)
                numbers[:] = raw[start : start + len(numbers)]
                start += len(numbers)
                parts.append(part)
        if _checksum(header[:_CHECKSUM_AT], [_as_bytes(part) for part in parts]) != header[_CHECKSUM_AT:]:
            raise DamagedEntry(source, "its checksum does not fit")
    return tuple(parts)


def check(key: bytes, parts: Sequence[Tensor]) -> None:
    """Raises ``ValueError`` unless ``key`` and ``parts`` can be an entry."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    if not 1 <= len(parts) <= _MOST_PARTS:
        raise ValueError(f"an entry has 1 or {_MOST_PARTS} parts, not {len(parts)}")
    for part in parts:
        if part.device.type != "cpu" or part.layout != torch.strided:
            raise ValueError(
                f"a part of an entry is a dense tensor on the CPU, not one on {part.device}, {part.layout}"
            )
        if part.dtype not in _CODES:
            raise ValueError(f"a part of an entry has a floating-point dtype, not {part.dtype}")
        if part.dim() > _MOST_DIMENSIONS or _is_absurd(part.shape, part.dtype):
            raise ValueError(f"a part of an entry cannot have the shape {tuple(part.shape)}")


def _layouts(header: bytes, key: bytes, length: int, source: str) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """Dtype and shape of each part, by a header whose checksum is not yet known to fit: nothing in it is believed."""
    magic, version, little, count, found = _START.unpack_from(header)
    if magic != _MAGIC:
        raise DamagedEntry(source, "it is no entry of a state cache store")
    if version != _VERSION:
        raise DamagedEntry(source, f"it has version {version} of the format, and only {_VERSION} is known")
    if little != _LITTLE:
        raise DamagedEntry(source, "its numbers have another byte order than this machine's")
    if not 1 <= count <= _MOST_PARTS:
        raise DamagedEntry(source, f"it claims {count} parts")
    if found != key:
        raise DamagedEntry(source, f"it is the entry of another key ({found.hex()})")
    layouts = []
    expected = HEADER_BYTES
    for number in range(count):
        code, dimensions, *sizes = _PART.unpack_from(header, _START.size + number * _PART.size)
        if code not in _DTYPES:
            raise DamagedEntry(source, f"it has an unknown dtype ({code})")
        dtype, shape = _DTYPES[code], tuple(sizes[:dimensions])
        if dimensions > _MOST_DIMENSIONS or _is_absurd(shape, dtype):
            raise DamagedEntry(source, f"it claims {dimensions} dimensions of sizes {shape}")
        layouts.append((dtype, shape))
        expected += math.prod(shape) * dtype.itemsize
    if length != expected:
        raise DamagedEntry(source, f"it has {length} bytes instead of {expected}")
    return layouts


def _is_absurd(shape: Sequence[int], dtype: torch.dtype) -> bool:
    return math.prod(max(size, 1) for size in shape) * dtype.itemsize > _MOST_BYTES


def _as_bytes(part: Tensor) -> memoryview:
    """The memory of a contiguous tensor; NumPy knows no bfloat16, but bytes it does."""
    return part.reshape(-1).view(torch.uint8).numpy().data


def _checksum(header: bytes, numbers: Sequence[memoryview]) -> bytes:
    digest = hashlib.blake2b(header, digest_size=_CHECKSUM_BYTES)
    for part in numbers:
        digest.update(part)
    return digest.digest()
