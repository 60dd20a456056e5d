"""One entry as bytes: what goes in comes out to the bit, and nothing else is ever taken for it."""

from __future__ import annotations

import hashlib
import struct

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layerselect.state_cache.entry import HEADER_BYTES, DamagedEntry, decode, encode

from tests.state_cache.entries import entries, key_of, keys, numbered, raw, same

KEY = key_of(1)
SPECIAL = torch.tensor([float("nan"), -0.0, 0.0, float("inf"), -float("inf"), 1e-42])


def written(key, parts) -> bytes:
    return b"".join(encode(key, parts))


def sealed(content: bytes) -> bytes:
    """``content`` with a checksum that fits: what somebody would write who means it."""
    digest = hashlib.blake2b(content[:176] + content[HEADER_BYTES:], digest_size=16).digest()
    return content[:176] + digest + content[HEADER_BYTES:]


@settings(max_examples=150)
@given(keys(), entries())
@example(KEY, (SPECIAL,))
@example(KEY, (SPECIAL.bfloat16(), torch.zeros(0, 7, dtype=torch.float64)))
@example(KEY, (torch.tensor(1.5),))
@example(KEY, (torch.zeros([1] * 8),))
def test_every_entry_comes_back_to_the_bit(key, parts):
    assert same(decode(written(key, parts), key, "here"), parts)


@settings(max_examples=300)
@given(entries(), st.data())
def test_no_flipped_bit_is_believed(parts, data):
    content = bytearray(written(KEY, parts))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedEntry):
        decode(content, KEY, "here")


def test_no_flipped_bit_of_a_header_is_believed():
    content = written(KEY, numbered(1))
    for bit in range(8 * HEADER_BYTES):
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedEntry):
            decode(altered, KEY, "here")


@settings(max_examples=100)
@given(entries(), st.data())
def test_no_other_length_is_believed(parts, data):
    content = written(KEY, parts)
    shorter = content[: data.draw(st.integers(0, len(content) - 1))]
    longer = content + data.draw(st.binary(min_size=1, max_size=300))
    for other in (shorter, longer, content + content):
        with pytest.raises(DamagedEntry):
            decode(other, KEY, "here")


@given(st.binary(max_size=400))
def test_no_other_bytes_are_believed(content):
    with pytest.raises(DamagedEntry):
        decode(content, KEY, "here")


@pytest.mark.parametrize(
    ("at", "form", "value", "reason"),
    [
        (0, "8s", b"LSTRUNK?", "no entry"),
        (8, "<H", 2, "version 2"),
        (10, "B", 2, "byte order"),
        (11, "B", 0, "0 parts"),
        (11, "B", 3, "3 parts"),
        (16, "16s", key_of(2), key_of(2).hex()),
        (32, "B", 0, "unknown dtype"),
        (32, "B", 9, "unknown dtype"),
        (33, "B", 9, "9 dimensions"),
        (33, "B", 1, "bytes instead of"),
        (40, "<Q", 4, "bytes instead of"),
        (40, "<Q", 2**63, "dimensions of sizes"),
        (40, "<2Q", (0, 2**60), "dimensions of sizes"),
    ],
)
def test_a_header_is_not_believed_even_if_its_checksum_fits(at, form, value, reason):
    content = bytearray(written(KEY, numbered(1)))
    struct.pack_into(form, content, at, *(value if isinstance(value, tuple) else (value,)))
    with pytest.raises(DamagedEntry, match=reason) as caught:
        decode(sealed(bytes(content)), KEY, "some/file")
    assert caught.value.source == "some/file" and reason in caught.value.reason


def test_the_checksum_here_is_the_one_in_the_file():
    content = written(KEY, numbered(1))
    assert sealed(content) == content


def test_the_parts_are_copies_and_the_buffer_is_free_again():
    buffer = bytearray(written(KEY, numbered(1)))
    parts = decode(buffer, KEY, "here")
    buffer[HEADER_BYTES:] = bytes(len(buffer) - HEADER_BYTES)
    buffer.extend(b"!")  # BufferError if a view of it were left
    assert same(parts, numbered(1))
    with pytest.raises(DamagedEntry):
        decode(buffer, KEY, "here")
    buffer.extend(b"!")


def test_numbers_are_not_copied_to_be_written():
    part = torch.zeros(5, 6, requires_grad=True)
    _, numbers = encode(KEY, (part,))
    with torch.no_grad():
        part += 1
    assert bytes(numbers) == raw(part.detach()) != bytes(len(numbers))


def test_parts_read_in_inference_mode_can_be_trained_on():
    content = written(KEY, numbered(1))
    with torch.inference_mode():
        (part,) = decode(content, KEY, "here")
    weight = torch.ones(4, requires_grad=True)
    (part * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        (b"short", numbered(1)),
        (KEY, ()),
        (KEY, numbered(1) * 3),
        (KEY, (torch.zeros(2, dtype=torch.int64),)),
        (KEY, (torch.zeros([1] * 9),)),
        (KEY, (torch.zeros(0, 2**31, 2**31),)),
        (KEY, (torch.zeros(2, device="meta"),)),
        (KEY, (torch.eye(2).to_sparse(),)),
    ],
)
def test_what_cannot_be_an_entry_is_refused(key, parts):
    with pytest.raises(ValueError):
        encode(key, parts)
