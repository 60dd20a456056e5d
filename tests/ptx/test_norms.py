"""Sums of squares, by executing the kernels' PTX: right, in range, and the same bits whoever runs first."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

from tests.ptx import structs
from tests.ptx.conftest import SLOW
from tests.ptx.device import Gradient, Norms, encode
from tests.ptx.emulator import Emulator

SIZES = (0, 1, 2, 3, 7, 8, 9, 15, 31, 33, 64, 100, 255, 257, 1025, 4095, 4096, 4097, 9000, 16384, 16385, 33001)
PER_VECTOR = {"float32": 4, "float16": 8, "bfloat16": 8, "float64": 2}


def gradient(rng: np.random.Generator, numel: int, dtype: str, offset: int = 0, scale: float = 1.0) -> Gradient:
    return Gradient(encode(rng.standard_normal(numel) * scale, dtype), dtype, offset)


def check(norms: Norms, gradients: list[Gradient], tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(norms.tensor_sqnorms(), [g.sqnorm() for g in gradients], rtol=tolerance, atol=0)


def test_structs_have_the_compilers_sizes(emulator: Emulator):
    for which, mirrored in enumerate(structs.SIZES):
        if mirrored is not None:
            assert emulator.lib.shim_sizeof(which) == ctypes.sizeof(mirrored)


def test_kernels_use_nothing_that_the_interpreter_lacks(emulator: Emulator):
    entries = emulator.module.info["entries"]
    assert set(entries) == {
        "layerselect_norms_small",
        "layerselect_norms_large",
        "layerselect_norms_select_small",
        "layerselect_norms_select_large",
        "layerselect_select",
        "layerselect_masked_copy",
    }
    assert not any(entry["unsupported"] or entry["local"] for entry in entries.values())


@pytest.mark.parametrize("dtype", PER_VECTOR)
def test_every_size_at_every_misalignment(emulator: Emulator, dtype: str):
    rng = np.random.default_rng(1)
    offsets = range(PER_VECTOR[dtype])
    gradients = [gradient(rng, n, dtype, o) for n, o in itertools.product(SIZES[:-5], offsets)]
    gradients += [gradient(rng, n, dtype, o) for n, o in zip(SIZES[-5:], itertools.cycle(offsets), strict=False)]
    norms = Norms(emulator, gradients)
    norms.launch()
    check(norms, gradients)


def test_mixed_types_in_one_launch(emulator: Emulator):
    rng = np.random.default_rng(2)
    dtypes = [list(PER_VECTOR)[i] for i in rng.integers(0, 4, 60)]
    gradients = [gradient(rng, int(rng.integers(0, 6000)), d, int(rng.integers(0, PER_VECTOR[d]))) for d in dtypes]
    norms = Norms(emulator, gradients, [i % 5 for i in range(60)], 6)
    assert [launch.kernel for launch in norms.launch()] == ["layerselect_norms_small"]
    check(norms, gradients)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_millions_of_elements(emulator: Emulator, dtype: str):
    rng = np.random.default_rng(3)
    gradients = [gradient(rng, 3_000_001 if SLOW else 1_500_001, dtype, 1)]
    emulator.options = {"race": False, "uninit": False}  # the small ones are checked for those
    norms = Norms(emulator, gradients)
    norms.launch()
    check(norms, gradients, 2e-7)


def test_equal_values_add_up_without_drift(emulator: Emulator):
    """Rounding errors of equal addends all point the same way: float32 sums alone would be off by 1e-5."""
    gradients = [Gradient(encode(np.full(300_000, 0.1), d), d) for d in ("float32", "bfloat16")]
    emulator.options = {"race": False, "uninit": False}
    norms = Norms(emulator, gradients)
    norms.launch()
    check(norms, gradients, 5e-7)


@pytest.mark.parametrize("count", [1, 2, 9, 500])
def test_any_number_of_tensors(emulator: Emulator, count: int):
    rng = np.random.default_rng(count)
    gradients = [gradient(rng, int(n), "bfloat16") for n in rng.integers(0, 300, count)]
    for large, expected in ((True, 1), (False, -(-count // 416))):
        norms = Norms(emulator, gradients, np.sort(rng.integers(0, 7, count)), 7)
        launches = norms.launch(large_table=large)
        assert len(launches) == expected
        assert all(launch.argument_bytes <= (32764 if large else 4096) for launch in launches)
        check(norms, gradients)


def test_table_ends_exactly_at_a_unit(emulator: Emulator):
    """416 tensors fill the small table; one more, in the same unit or another, opens a second launch."""
    rng = np.random.default_rng(4)
    for count, expected in ((416, 1), (417, 2)):
        gradients = [gradient(rng, 5, "float32") for _ in range(count)]
        norms = Norms(emulator, gradients, [i // 10 for i in range(count)])
        assert len(norms.launch(large_table=False)) == expected
        check(norms, gradients)


VALUES = {
    "zeros": lambda rng, n: np.zeros(n),
    "negative zeros": lambda rng, n: np.full(n, -0.0),
    "huge": lambda rng, n: rng.uniform(1e19, 1e38, n),
    "tiny": lambda rng, n: rng.uniform(1e-38, 1e-19, n),
    "denormal": lambda rng, n: rng.uniform(1e-45, 1e-39, n),
    "one huge among tiny": lambda rng, n: np.where(np.arange(n) == n // 2, 1e30, 1e-30),
    "one tiny among zeros": lambda rng, n: np.where(np.arange(n) == n - 9, 1e-22, 0.0),
}


@pytest.mark.parametrize("kind", VALUES)
def test_the_whole_range_of_float32(emulator: Emulator, kind: str):
    rng = np.random.default_rng(5)
    gradients = [
        Gradient(encode(VALUES[kind](rng, n), d), d, o)
        for d in ("float32", "bfloat16")
        for n, o in ((5000, 3), (50, 0))
    ]
    norms = Norms(emulator, gradients)
    norms.launch()
    check(norms, gradients)


def test_the_whole_range_of_float16(emulator: Emulator):
    rng = np.random.default_rng(6)
    gradients = [
        Gradient(encode(rng.uniform(lo, hi, 5001), "float16"), "float16", 1)
        for lo, hi in ((6e4, 6.5e4), (0, 6e-8), (1e-7, 1e-5))
    ]
    norms = Norms(emulator, gradients)
    norms.launch()
    check(norms, gradients)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_not_finite_exactly_where_an_element_is_not(emulator: Emulator, bad: float):
    rng = np.random.default_rng(7)
    gradients, expected = [], []
    for dtype, place in itertools.product(PER_VECTOR, (None, 0, 1, 2500, 4999)):
        values = rng.standard_normal(5000)
        if place is not None:
            values[place] = bad
        gradients.append(Gradient(encode(values, dtype), dtype, 1))
        expected.append(place is None)
    norms = Norms(emulator, gradients)
    norms.launch()
    assert np.isfinite(norms.tensor_sqnorms()).tolist() == expected


def test_a_missing_gradient_counts_nothing(emulator: Emulator):
    rng = np.random.default_rng(8)
    gradients = [gradient(rng, 6000, "float32") for _ in range(4)]
    norms = Norms(emulator, gradients)
    gradients[1] = gradients[3] = Gradient(None, "float32")
    for i in (1, 3):
        norms.set(i, gradients[i])
    norms.launch()
    check(norms, gradients)


def test_offsets_beyond_32_bits(emulator: Emulator):
    """A tensor of 2^33 elements, of which the last two units are there."""
    rng = np.random.default_rng(9)
    numel = 2**33 + 12345
    empty = Norms(emulator, [Gradient(None, "bfloat16")], numels=[numel])
    last = empty.plan["items"][-2:]
    assert last["offset"][0] > 2**32
    values = encode(rng.standard_normal(int(last["length"].sum()) % 2**20), "bfloat16")
    # Only the last few thousand elements are there, so the launch takes the last item, made short.
    items = empty.plan["items"].copy()
    items["offset"][-1], items["length"][-1] = numel - values.size, values.size
    empty.items = emulator.module.to_device(items, "items", ro=True)
    buffer = emulator.module.to_device(values, "gradient", ro=True)
    empty.pointers[0] = (buffer.ptr - 2 * (numel - values.size)) % 2**64
    emulator.options = {"race": False, "uninit": False}
    empty.launch(units=(len(items) - 1, len(items)))
    np.testing.assert_allclose(empty.partials.get()[-1], Gradient(values, "bfloat16").sqnorm(), rtol=1e-6)


def test_same_bits_in_any_order_and_on_any_grid(emulator: Emulator):
    rng = np.random.default_rng(10)
    dtypes = ("float32", "bfloat16", "float16", "float64")
    gradients = [gradient(rng, int(n), dtypes[i % 4]) for i, n in enumerate(rng.integers(1, 20000, 12))]
    gradients += [gradient(rng, int(n), dtypes[i % 4]) for i, n in enumerate(rng.integers(1, 500, 30))]
    seen = set()
    grids = itertools.cycle((1, 2, 3, 5, 8, 64))
    for seed, blocks in zip(range(24 if SLOW else 8), grids, strict=False):
        emulator.options = {"seed": seed, "chaos": True, "resident": 1 + seed % 7}
        norms = Norms(emulator, gradients, [i % 6 for i in range(len(gradients))])
        norms.launch(max_blocks=blocks)
        seen.add(norms.partials.get().tobytes())
        norms.free()
    assert len(seen) == 1
    check(norms_of(emulator, gradients), gradients)


def norms_of(emulator: Emulator, gradients: list[Gradient]) -> Norms:
    norms = Norms(emulator, gradients)
    norms.launch()
    return norms


def test_units_of_one_group_alone(emulator: Emulator):
    """What a hook launches: one layer's units, the other layers' partials untouched."""
    rng = np.random.default_rng(11)
    groups = [0, 0, 1, 1, 1, 2]
    gradients = [gradient(rng, int(n), "float32") for n in (5000, 10, 9000, 3, 0, 7)]
    norms = Norms(emulator, gradients, groups, 4)
    begin = norms.plan["unit_begin"].tolist()
    norms.partials.set(np.full(norms.partials.shape, -1.0))
    norms.launch(units=(begin[1], begin[2]))
    sums = norms.tensor_sqnorms()
    np.testing.assert_allclose(sums[2:5], [g.sqnorm() for g in gradients[2:5]], rtol=1e-6)
    assert (sums[[0, 1, 5]] < 0).all()


def test_the_plan_covers_every_element_once(emulator: Emulator):
    rng = np.random.default_rng(12)
    for count in (0, 1, 40, 300):
        numels = [int(n) for n in np.exp(rng.uniform(0, 14, count)).astype(int) - 1]
        groups = [int(g) for g in rng.integers(0, 9, count)]
        plan = emulator.plan(numels, ["float32"] * count, groups, 10)
        covered = np.zeros(count, int)
        for t, parameter in enumerate(plan["order"]):
            at = 0
            for item in plan["items"][plan["item_begin"][t] : plan["item_begin"][t + 1]]:
                assert item["offset"] == at
                assert item["tensor_and_type"] == t
                at += int(item["length"])
            covered[parameter] = at
        assert covered.tolist() == numels
        for group in range(10):
            members = plan["group_tensors"][plan["group_begin"][group] : plan["group_begin"][group + 1]]
            assert plan["order"][members].tolist() == [i for i in range(count) if groups[i] == group]
            units = plan["units"][plan["unit_begin"][group] : plan["unit_begin"][group + 1]]
            items = [int(u["item"]) + k for u in units for k in range(max(int(u["count"]), 1))]
            owners = [groups[plan["order"][plan["items"]["tensor_and_type"][i]]] for i in items]
            assert owners == [group] * len(items)
        assert sum(max(int(u["count"]), 1) for u in plan["units"]) == len(plan["items"])
        assert all(u["count"] <= 8 for u in plan["units"])


def test_items_grow_with_the_model(emulator: Emulator):
    plan = emulator.plan([2_000_000_000] * 4, ["bfloat16"] * 4, [0, 0, 1, 1], 2)
    assert 8000 < len(plan["items"]) <= 16384 + 4
