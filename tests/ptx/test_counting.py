"""The bytes and launches that the kernels' headers state, counted while the PTX runs."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx.counting import ByteCounter, instrument
from tests.ptx.device import Gradient, Norms, State, encode
from tests.ptx.emulator import Emulator
from tests.ptx.test_masked_copy import keep_and_restore

SIZE = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}


@pytest.fixture
def counted(run_ptx, toolchain) -> tuple[Emulator, ByteCounter]:
    ptx, sites = instrument(toolchain.ptx("sm_90"))
    assert "?" not in {file for file, _, _ in sites}
    emulator = Emulator(run_ptx, toolchain.launchers(), ptx, {"race": False})
    return emulator, ByteCounter(emulator.module, sites)


def lora_like(layers: int, rank: int, width: int) -> tuple[list[Gradient], list[int]]:
    """Two matrices for each of two maps of a layer, and a small head."""
    rng = np.random.default_rng(0)
    gradients, groups = [], []
    for layer in range(layers):
        for n in (rank * width, rank * width, rank * width, rank * width // 4):
            gradients.append(Gradient(encode(rng.standard_normal(n), "float32"), "float32"))
            groups.append(layer)
    gradients.append(Gradient(encode(rng.standard_normal(5), "bfloat16"), "bfloat16"))
    return gradients, [*groups, layers]


def test_every_element_is_read_once(counted):
    emulator, counter = counted
    rng = np.random.default_rng(1)
    gradients = []
    for i, n in enumerate((0, 1, 7, 100, 4096, 5000, 40000)):
        for dtype in SIZE:
            gradients.append(Gradient(encode(rng.standard_normal(n), dtype), dtype, i % 2))
    norms = Norms(emulator, gradients)
    norms.launch()
    moved = counter.take()
    assert moved["norm_item.cuh", "ld"] == sum(g.numel * SIZE[g.dtype] for g in gradients)
    # All threads of a warp read an item, all threads of a block a unit: one transaction each.
    by_block = int((norms.plan["units"]["count"] == 0).sum())
    by_warp = len(norms.plan["items"]) - by_block
    units = len(norms.plan["units"])
    assert moved["norms.cuh", "ld"] == 16 * (256 * by_block + 32 * by_warp) + 8 * 256 * units
    assert moved["norms.cuh", "st"] == 8 * len(norms.plan["items"])
    assert moved["norm_item.cuh", "st"] == 0


def test_a_zero_gradient_is_not_read_twice(counted):
    """LoRA's A has no gradient while B is zero; its squares underflow no more than a zero does."""
    emulator, counter = counted
    gradients = [Gradient(np.zeros(9000, np.float32), "float32"), Gradient(np.zeros(9000, np.uint16), "bfloat16")]
    Norms(emulator, gradients).launch()
    assert counter.take()["norm_item.cuh", "ld"] == 9000 * 6


def test_a_step_in_one_launch(counted):
    emulator, counter = counted
    layers = 12
    gradients, groups = lora_like(layers, 8, 256)
    norms = Norms(emulator, gradients, groups)
    state = State(emulator, layers)
    launches = norms.launch(state.arguments(norms, state.rule("variance", window=(0.35, 0.65), inclusive=1, splits=1)))
    moved = counter.take()
    assert len(launches) == 1
    assert moved["norm_item.cuh", "ld"] == sum(g.numel * SIZE[g.dtype] for g in gradients)
    files = ("select_sums.cuh", "select_rule.cuh", "select_block.cuh")
    selection = sum(moved[file, kind] for file in files for kind in ("ld", "st"))
    # Per thread, the indices of a tensor are read by each of its two lanes; the counters by every thread.
    stated = 8 * len(norms.plan["items"]) + 40 * len(gradients) + 60 * layers + 20 * 256
    assert selection <= stated
    assert selection < moved["norm_item.cuh", "ld"] / 10


def test_launches_of_a_step_in_the_backward_pass(counted):
    """One for each layer, and one for the outer parameters and the selection: L + 1."""
    emulator, _ = counted
    layers = 12
    gradients, groups = lora_like(layers, 8, 1024)
    norms = Norms(emulator, gradients, groups)
    state = State(emulator, layers)
    begin = norms.plan["unit_begin"].tolist()
    launches = [x for g in range(layers) for x in norms.launch(units=(begin[g], begin[g + 1]))]
    launches += norms.launch(state.arguments(norms, state.rule("top", k=3)), units=(begin[layers], begin[layers + 1]))
    assert len(launches) == layers + 1
    assert all(launch.argument_bytes <= 4096 for launch in launches)
    assert [launch.grid for launch in launches[:-1]] == [4] * layers
    assert (state.get("mask").sum(), state.counters.step) == (3, 1)


def test_the_grid_never_exceeds_the_device(counted):
    emulator, _ = counted
    gradients, groups = lora_like(12, 8, 256)
    norms = Norms(emulator, gradients, groups)
    assert [launch.grid for launch in norms.launch(max_blocks=7)] == [7]
    assert [launch.grid for launch in norms.launch(max_blocks=10**6)] == [len(norms.plan["units"])]


def test_keep_and_restore_move_the_gated_bytes_only(counted):
    emulator, counter = counted
    keep_and_restore(emulator, [(0, 0, 1000), (3, 3, 555), (0, 0, 77)], gates=[1.0, 0.0, 1.0])
    moved = counter.take()
    assert moved["masked_copy.cu", "st"] == 2 * (1000 + 77)
    table = 2 * 3 * 256 * (32 + 4)
    assert 2 * (1000 + 77) <= moved["masked_copy.cu", "ld"] <= 2 * (1000 + 77) + table
