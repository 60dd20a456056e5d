"""Selections cut down to a budget, by executing the kernel's PTX: mask, kept share and cost are the CPU's, bit for
bit.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Iterator

import numpy as np
import pytest

from tests.ptx.conftest import SLOW
from tests.ptx.device import Gradient, Norms, State, encode
from tests.ptx.emulator import Emulator
from tests.ptx.test_select import Case, Selector, statuses, vectors

BASES: tuple[Case, ...] = (
    ("variance", {"window": (0.35, 0.65), "inclusive": 1, "splits": 1}),
    ("variance", {"window": (0.0, 1.0), "inclusive": 0, "splits": 2}),
    ("top", {"k": 3}),
    ("top", {"k": 0}),
    ("threshold", {"gamma": 1.0}),
    ("all", {}),
    ("fixed", {}),
)


def tables(rng: np.random.Generator, n: int) -> Iterator[np.ndarray]:
    """Costs by depth, of no layer, and of each layer's own gradients: a line, uneven ones, ones with equal steps,
    none.
    """

    def table(forward: float, through: np.ndarray, own: np.ndarray) -> np.ndarray:
        whole = forward + through.sum() + own.sum()
        return np.concatenate([(forward + np.append(through[::-1].cumsum()[::-1], 0.0)) / whole, own / whole])

    yield table(0.39, np.full(n, 0.085), np.full(n, 0.01))
    yield table(n, rng.lognormal(0, 1, n), rng.lognormal(0, 1, n))
    yield table(1.0, rng.integers(0, 2, n).astype(float), np.zeros(n))
    yield table(1.0, np.zeros(n), rng.integers(1, 3, n).astype(float))


def within_budget(
    emulator: Emulator, scores: np.ndarray, status: np.ndarray, base: np.ndarray, costs: np.ndarray, budget: float
) -> tuple[np.ndarray, bytes]:
    """The CPU's mask, and the bits of kept share and cost."""
    mask, said = base.copy(), np.zeros(2, np.float32)
    pointers = [array.ctypes.data_as(c.c_void_p) for array in (scores, status, costs, mask, said)]
    emulator.lib.shim_within_budget(*pointers[:2], c.c_int(scores.size), pointers[2], c.c_double(budget), *pointers[3:])
    return mask, said.tobytes()


def said_by(state: State) -> bytes:
    return np.array([state.counters.kept_share, state.counters.step_cost], np.float32).tobytes()


def check(selector: Selector, scores: np.ndarray, status: np.ndarray, case: Case) -> None:
    scores = scores.astype(np.float32)
    kind, options = case
    mask, _ = selector.device(scores, status, case)
    if kind == "fixed":
        base = np.asarray(options["fixed"])
    else:
        plain = {name: value for name, value in options.items() if name not in ("costs", "budget")}
        base = selector.host(scores, status, (kind, plain))[0]
    expected, said = within_budget(selector.state.emulator, scores, status, base, options["costs"], options["budget"])
    assert mask.tolist() == expected.tolist(), (scores, status, case)
    assert said_by(selector.state) == said, (scores, status, case)


def cases(rng: np.random.Generator, n: int) -> Iterator[Case]:
    for base, options in BASES:
        for costs in tables(rng, n):
            # From one that no layer fits to one that all fit, those between at the cost of a depth or beside it.
            somewhere = float(rng.choice(costs[: n + 1]))
            for budget in (1e-9, somewhere, float(rng.uniform(costs[n], 1.0)), 1.0):
                chosen = {"fixed": rng.random(n) < 0.5} if base == "fixed" else {}
                yield base, {**options, **chosen, "costs": np.ascontiguousarray(costs), "budget": budget}


@pytest.mark.parametrize("num_layers", [1, 2, 7, 33])
def test_any_base_any_costs_any_budget(emulator: Emulator, num_layers: int):
    rng = np.random.default_rng(num_layers)
    selector = Selector(emulator, num_layers)
    emulator.options = {"race": False}  # another test looks for races
    pairs = [(v, s) for v in vectors(rng, num_layers) for s in statuses(rng, num_layers)]
    sizes = set()
    for _ in range(12 if SLOW else 2):
        for case in cases(rng, num_layers):
            scores, status = pairs[rng.integers(len(pairs))]
            check(selector, scores, status, case)
            sizes.add(int(selector.state.get("mask").sum()))
    assert {0, 1, min(num_layers, 2)} <= sizes


@pytest.mark.parametrize("num_layers", [255, 256, 257, 1024])
def test_many_layers(emulator: Emulator, num_layers: int):
    rng = np.random.default_rng(num_layers)
    selector = Selector(emulator, num_layers)
    emulator.options = {"race": False}
    status = rng.choice(np.array([0, 1, 2], np.uint8), num_layers, p=[0.1, 0.8, 0.1])
    line, uneven = list(tables(rng, num_layers))[:2]
    top = int(
        np.flatnonzero(status == 1)[-1]
    )  # the only one that fits alone, above or beside the second row of threads
    for costs, budget, base in (
        (line, 0.7, ("all", {})),
        (uneven, 0.6, ("fixed", {"fixed": rng.random(num_layers) < 0.5})),
        (line, float(line[top] + line[num_layers + 1 + top]), ("fixed", {"fixed": np.arange(num_layers) < 5})),
    ):
        case = (base[0], {**base[1], "costs": np.ascontiguousarray(costs), "budget": budget})
        check(selector, rng.integers(0, 9, num_layers), status, case)
        assert selector.state.get("mask").any()


@pytest.mark.parametrize("num_layers", [2, 40, 300])
def test_same_bits_in_any_order_and_no_race(emulator: Emulator, num_layers: int):
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 20, num_layers).astype(np.float32)
    status = rng.choice(np.array([0, 1, 2], np.uint8), num_layers, p=[0.1, 0.8, 0.1])
    costs = np.ascontiguousarray(list(tables(rng, num_layers))[1])
    for seed in range(12 if SLOW else 6):
        emulator.options = {"seed": seed, "chaos": True}
        selector = Selector(emulator, num_layers)
        base, options = BASES[(0, 2, 5)[seed % 3]]
        # The second half of the runs finds no layer of the base's that fits, unless its top one does.
        budget = 0.8 if seed < 3 else float(costs[num_layers - 1] + costs[-1])
        check(selector, scores, status, (base, {**options, "costs": costs, "budget": budget}))


def test_between_two_selections_share_and_cost_activate(emulator: Emulator):
    """And the budget costs no launch: the norms, the rule and the cut are one."""
    rng = np.random.default_rng(5)
    layers = 5
    gradients = [Gradient(encode(rng.standard_normal(100), "float32"), "float32") for _ in range(layers)]
    norms = Norms(emulator, gradients, list(range(layers)), layers + 1)
    state = State(emulator, layers)
    costs = next(iter(tables(rng, layers)))
    seen = []
    for _ in range(3):
        args = state.arguments(norms, state.rule("all", costs=costs, budget=0.8), warmup=1, interval=2)
        assert len(norms.launch(args)) == 1
        seen.append((state.counters.kept_share, state.counters.step_cost, state.get("mask").tolist()))
    assert np.isnan(seen[0][:2]).all() and seen[0][2] == [1] * 5
    # Equal costs and nearly equal scores: as deep as 0.8 of .39 + 5 x .095 = .865 goes, which is 3 layers, .675.
    assert seen[1] == seen[2]
    assert seen[1][2] == [0, 0, 1, 1, 1]
    scores = np.sqrt([g.sqnorm() for g in gradients])
    assert seen[1][0] == pytest.approx(scores[2:].sum() / scores.sum(), rel=1e-6)
    assert seen[1][1] == pytest.approx(0.675 / 0.865, rel=1e-6)
