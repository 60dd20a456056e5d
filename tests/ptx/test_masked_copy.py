"""Keep and restore, by executing the kernel's PTX."""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence

import numpy as np
import pytest

from tests.ptx.emulator import Emulator

ITEM = np.dtype([("from", "u8"), ("to", "u8"), ("bytes", "i8"), ("group", "i8")])


def keep_and_restore(emulator: Emulator, pieces: Sequence[tuple[int, int, int]], gates: Sequence[float]) -> None:
    """``pieces``: (offset of the original, offset of the copy, bytes); piece i is gated by gates[i]."""
    rng = np.random.default_rng(0)
    module = emulator.module
    originals = [rng.integers(0, 256, start + n).astype(np.uint8) for start, _, n in pieces]
    sources = [module.to_device(a if a.size else np.zeros(1, np.uint8), "original") for a in originals]
    copies = [module.empty(max(start + n, 1), np.uint8, "copy") for _, start, n in pieces]
    items = np.zeros(len(pieces), ITEM)
    for i, (at, to, n) in enumerate(pieces):
        items[i] = (sources[i].ptr + at, copies[i].ptr + to, n, i)
    table = module.to_device(items, "items", ro=True)
    gate = module.to_device(np.asarray(gates, np.float32), "gate", ro=True)

    def run(back: int) -> None:
        arguments = (c.c_void_p(table.ptr), c.c_int64(len(pieces)), c.c_void_p(gate.ptr), c.c_int32(back), c.c_int32(3))
        assert len(emulator.call("layerselect_cuda_masked_copy", *arguments, None)) == 1

    run(0)
    changed = [rng.integers(0, 256, start + n).astype(np.uint8) for start, _, n in pieces]
    for source, new in zip(sources, changed, strict=True):  # the optimizer's step
        if new.size:
            source.set(new)
    run(1)
    for (at, _, _), source, old, new, closed in zip(pieces, sources, originals, changed, gates, strict=True):
        if new.size:
            expected = new.copy()
            if closed:
                expected[at:] = old[at:]
            assert source.get().tobytes() == expected.tobytes()


def test_gated_pieces_come_back_and_others_keep_what_was_written(emulator: Emulator):
    rng = np.random.default_rng(1)
    sizes = (0, 1, 3, 15, 16, 17, 31, 64, 4096, 4097, 20000)
    pieces = [(shift, shift, n) for n in sizes for shift in (0, 1, 4, 15)]
    pieces += [(0, 4, n) for n in sizes] + [(2, 1, n) for n in sizes]
    for seed in range(3):
        emulator.options = {"seed": seed, "chaos": True, "resident": 1 + seed}
        keep_and_restore(emulator, pieces, rng.integers(0, 2, len(pieces)).astype(float).tolist())


@pytest.mark.parametrize("gate", [0.0, 1.0])
def test_all_or_nothing(emulator: Emulator, gate: float):
    keep_and_restore(emulator, [(0, 0, 1000), (8, 8, 24)], [gate, gate])
