"""Selections by executing the kernel's PTX: mask and threshold are the CPU's, for any scores."""

from __future__ import annotations

import ctypes as c
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.ptx import structs
from tests.ptx.conftest import SLOW
from tests.ptx.device import State
from tests.ptx.emulator import Emulator

Case = tuple[str, dict[str, Any]]
RULES: tuple[Case, ...] = (
    ("variance", {"window": (0.35, 0.65), "inclusive": 1, "splits": 1}),
    ("variance", {"window": (0.35, 0.65), "inclusive": 0, "splits": 1}),
    ("variance", {"window": (0.0, 1.0), "inclusive": 1, "splits": 2}),
    ("variance", {"window": (0.0, 1.0), "inclusive": 0, "splits": 3}),
    ("variance", {"window": (1.0, 1.0), "inclusive": 0, "splits": 1}),
    ("top", {"k": 1}),
    ("top", {"k": 0}),
    ("top", {"k": 5}),
    ("top", {"k": 2**31 - 1}),
    ("threshold", {"gamma": 1.0}),
    ("threshold", {"gamma": 0.0}),
    ("all", {}),
)


class Selector:
    """Closes steps whose tensor sums are given: one tensor for each layer."""

    def __init__(self, emulator: Emulator, num_layers: int) -> None:
        module = emulator.module
        self.lib, self.n = emulator.lib, num_layers
        self.state = State(emulator, num_layers, history_rows=0)
        self.sums = module.zeros(num_layers + 1, np.float64, "tensor_sums")
        self.begin = module.to_device(np.arange(num_layers + 2, dtype=np.int32), "group_begin", ro=True)
        self.tensors = module.to_device(np.arange(num_layers + 1, dtype=np.int32), "group_tensors", ro=True)

    def device(self, scores: np.ndarray, status: np.ndarray, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """(mask, threshold) of layers with these scores. A layer never measured takes no gradient in this step; an
        excluded one has a gradient that is not finite."""
        # float64 holds the square of a float32, so the score comes out as it went in.
        sums = np.zeros(self.n + 1)
        sums[:-1] = np.where(
            status == 0, np.where(np.arange(self.n) % 2, np.nan, np.inf), scores.astype(np.float64) ** 2
        )
        self.sums.set(sums)
        self.state.buffers["scores"].set(np.full(self.n, np.nan, np.float32))
        args = self.state.arguments(None, self.state.rule(case[0], **case[1]), active=(status != 2).tolist())
        args.tensor_sums, args.num_reduced = self.sums.ptr, 0
        args.group_begin, args.group_tensors = self.begin.ptr, self.tensors.ptr
        self.state.close_step(args)
        if "costs" not in case[1]:
            assert np.isnan([self.state.counters.kept_share, self.state.counters.step_cost]).all()
        assert (self.state.get("status") == status).all()
        held = self.state.get("scores")[status == 1]
        assert held.tobytes() == scores[status == 1].tobytes()
        return self.state.get("mask").astype(bool), np.float32(self.state.counters.threshold)

    def host(self, scores: np.ndarray, status: np.ndarray, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """The same by the CPU's code."""
        kind, options = case
        mask = np.zeros(self.n, bool)
        head = (scores.ctypes.data_as(c.c_void_p), status.ctypes.data_as(c.c_void_p), c.c_int(self.n))
        out = mask.ctypes.data_as(c.c_void_p)
        if kind == "variance":
            lo, hi = options["window"]
            flags = c.c_int(options["inclusive"]), c.c_int(options["splits"])
            threshold = self.lib.shim_variance(*head, c.c_double(lo), c.c_double(hi), *flags, out)
        elif kind == "top":
            threshold = self.lib.shim_top(*head, c.c_int64(options["k"]), out)
        elif kind == "threshold":
            threshold = self.lib.shim_above(*head, c.c_float(options["gamma"]), out)
        else:
            mask, threshold = status != 0, np.nan
        return mask, np.float32(threshold)

    def check(self, scores: np.ndarray, status: np.ndarray, case: Case) -> None:
        mask, threshold = self.device(scores, status, case)
        expected, gamma = self.host(scores, status, case)
        assert mask.tolist() == expected.tolist(), (scores, status, case)
        assert threshold.tobytes() == gamma.tobytes() or (np.isnan(threshold) and np.isnan(gamma)), (
            scores,
            status,
            case,
        )


def vectors(rng: np.random.Generator, n: int) -> Iterator[np.ndarray]:
    """Scores that a rule may stumble over."""
    yield rng.uniform(0, 2, n)
    yield rng.lognormal(0, 4, n)
    yield np.zeros(n)
    yield np.full(n, rng.uniform(0, 2))
    yield rng.integers(0, 3, n).astype(float)  # ties
    yield np.where(rng.random(n) < 0.5, 1.0, np.nextafter(np.float32(1), np.float32(2)))
    yield rng.uniform(0, 1e-40, n)  # denormal
    yield rng.uniform(0, 3.4e38, n)
    yield 10.0 ** rng.uniform(-44, 38, n)
    yield np.arange(n)[::-1].astype(float)
    yield np.where(np.arange(n) == rng.integers(0, n), 1e30, 1e-30)


def statuses(rng: np.random.Generator, n: int) -> Iterator[np.ndarray]:
    yield np.ones(n, np.uint8)
    yield rng.choice(np.array([0, 1, 2], np.uint8), n, p=[0.2, 0.6, 0.2])
    yield rng.choice(np.array([0, 2], np.uint8), n)
    yield np.where(np.arange(n) == rng.integers(0, n), 1, rng.choice([0, 2])).astype(np.uint8)


@pytest.mark.parametrize("num_layers", [1, 2, 3, 6, 18, 33])
def test_thousands_of_score_vectors(emulator: Emulator, num_layers: int):
    """Each kind of scores with each kind of status and each rule."""
    rng = np.random.default_rng(num_layers)
    selector = Selector(emulator, num_layers)
    emulator.options = {"race": False}  # other tests look for races
    rounds = 8 if SLOW else 1
    checked = 0
    for _ in range(rounds):
        for scores in vectors(rng, num_layers):
            for status in statuses(rng, num_layers):
                for case in RULES:
                    selector.check(scores.astype(np.float32), status, case)
                    checked += 1
    assert checked >= 500


@pytest.mark.parametrize("num_layers", [255, 256, 257, 1024])
def test_many_layers(emulator: Emulator, num_layers: int):
    rng = np.random.default_rng(num_layers)
    selector = Selector(emulator, num_layers)
    emulator.options = {"race": False}
    cases = RULES[:1] + RULES[7:8] if num_layers > 300 and not SLOW else RULES
    status = next(iter(statuses(rng, num_layers)))
    some_unknown = rng.choice(np.array([0, 1, 2], np.uint8), num_layers, p=[0.1, 0.8, 0.1])
    for case in cases:
        selector.check(rng.uniform(0, 2, num_layers).astype(np.float32), status, case)
        selector.check(rng.integers(0, 9, num_layers).astype(np.float32), some_unknown, case)


@pytest.mark.parametrize("num_layers", [2, 40, 300])
def test_same_bits_in_any_order_and_no_race(emulator: Emulator, num_layers: int):
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 20, num_layers).astype(np.float32)
    status = rng.choice(np.array([0, 1, 2], np.uint8), num_layers, p=[0.1, 0.8, 0.1])
    for seed in range(16 if SLOW else 8):
        emulator.options = {"seed": seed, "chaos": True}
        selector = Selector(emulator, num_layers)
        selector.check(scores, status, RULES[seed % 5])


def test_a_fixed_set_leaves_out_what_is_not_finite(emulator: Emulator):
    selector = Selector(emulator, 5)
    status = np.array([1, 0, 1, 2, 1], np.uint8)
    wanted = [True, True, False, True, False]
    mask, threshold = selector.device(np.ones(5, np.float32), status, ("fixed", {"fixed": wanted}))
    assert mask.tolist() == [True, False, False, True, False]
    assert np.isnan(threshold)


def test_kernel_takes_the_layers_it_promises(emulator: Emulator):
    assert structs.MAX_LAYERS == 1024
    assert emulator.module.info["entries"]["layerselect_select"]["psize"] <= 4096
