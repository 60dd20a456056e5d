"""Deliberately broken copies of the kernels: the checks of the other files would catch them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx.device import Gradient, Norms, State, encode
from tests.ptx.emulator import Emulator
from tests.ptx.steps import variance
from tests.ptx.test_budget import said_by, tables, within_budget
from tests.ptx.test_masked_copy import keep_and_restore

# What is broken: file, text, replacement.
BROKEN = {
    "no fence before the ticket": ("cuda/norms.cuh", "__threadfence();  // this", "// this"),
    "no fence after the ticket": ("cuda/norms.cuh", "__threadfence();  // and", "// and"),
    "no barrier before the ticket": (
        "cuda/norms.cuh",
        "before its block's ticket is\n  __syncthreads();",
        "before its block's ticket is\n",
    ),
    "no barrier between warps and their sum": (
        "cuda/norms.cuh",
        "      __syncthreads();\n      if (threadIdx",
        "      if (threadIdx",
    ),
    "one set of slots instead of two": ("cuda/norms.cuh", "warp_sums[turn % 2]", "warp_sums[0]"),
    "the ticket does not reset": ("cuda/norms.cuh", "atomicInc(tickets, gridDim.x - 1)", "atomicAdd(tickets, 1U)"),
    "a vector too many": ("cuda/norm_item.cuh", "at < vectors ? __ldg", "at <= vectors ? __ldg"),
    "the tail is left out": (
        "cuda/norm_item.cuh",
        "thread - kPerVector < length - tail",
        "thread - kPerVector + 1 < length - tail",
    ),
    "a vector read at any address": (
        "cuda/norm_item.cuh",
        "min(past == 0 ? 0 : kPerVector - past, length)",
        "min(past == 0 ? 0U : 0U, length)",
    ),
    "an item too many in a tensor": ("cuda/select_sums.cuh", "item < end; item", "item <= end; item"),
    "no barrier between tensors and groups": (
        "cuda/select_block.cuh",
        "  __syncthreads();\n  sum_groups(",
        "  sum_groups(",
    ),
    "no barrier before all know the total norm": (
        "cuda/select_sums.cuh",
        "  __syncthreads();\n  return total;",
        "  return total;",
    ),
    "no barrier between scores and ranks": ("cuda/select_rule.cuh", "__syncthreads();  // and every", "// and every"),
    "no barrier between ranks and cuts": (
        "cuda/select_rule.cuh",
        "  __syncthreads();\n  if (rule.kind == RuleKind::kVariance) {",
        "  if (rule.kind == RuleKind::kVariance) {",
    ),
    "no barrier before the least cost": (
        "cuda/select_scratch.cuh",
        "  __syncthreads();\n  value = slots[0];",
        "  value = slots[0];",
    ),
    "no barrier before what is kept is added up": (
        "cuda/select_budget.cuh",
        "train_costs[layer] : 0.0;\n  }\n  __syncthreads();",
        "train_costs[layer] : 0.0;\n  }",
    ),
    "no barrier before what is kept is read": (
        "cuda/select_budget.cuh",
        "    __syncthreads();\n    return {depth_found",
        "    return {depth_found",
    ),
    "of what fits, the deepest": (
        "cuda/select_budget.cuh",
        "is_greatest(from.worth / cost, greatest)",
        "from.worth >= 0.0",
    ),
    "a layer alone that does not fit": (
        "cuda/select_budget.cuh",
        "kExcluded && fits(step_cost",
        "kExcluded || fits(step_cost",
    ),
    "offsets of 32 bits": (
        "cuda/norm_item.cuh",
        "+ item.offset * size",
        "+ static_cast<std::int32_t>(item.offset * size)",
    ),
    "the variance of one side only": ("select.h", "rounded_add(population_variance(sorted, 0, k), ", "(0.0 * k + "),
    "a byte too many is kept": ("cuda/masked_copy.cu", "threadIdx.x; i < bytes; i", "threadIdx.x; i <= bytes; i"),
}


def exercise(emulator: Emulator) -> None:
    """A short form of what the other files test, over more layers than a warp has threads."""
    rng = np.random.default_rng(0)
    gradients, groups = [], []
    for group in range(41):
        for i, n in enumerate((20000, 5000, 9) if group == 5 else (333, 70, 41, 0, 6, 50)):
            dtype = ("float32", "bfloat16", "float16")[i % 3]
            gradients.append(
                Gradient(encode(rng.standard_normal(n) * (0.1 if group == 5 else 1 + group % 7), dtype), dtype, i % 4)
            )
            groups.append(group)
    norms = Norms(emulator, gradients, groups, 41)
    state = State(emulator, 40)
    squares = np.bincount(groups, [g.sqnorm() for g in gradients])
    costs = np.ascontiguousarray(list(tables(rng, 40))[1])
    decide = variance(emulator, (0.2, 0.8))
    for seed in range(6):
        emulator.options = {"seed": seed, "chaos": True, "resident": 2 + seed % 3}
        rule = state.rule("variance", window=(0.2, 0.8), inclusive=1, splits=1)
        norms.launch(state.arguments(norms, rule, skip_nonfinite=True), max_blocks=2 + seed)
        scores = state.get("scores")
        np.testing.assert_allclose(scores, np.sqrt(squares[:40]), rtol=1e-6)
        mask, threshold = decide(scores, np.ones(40, np.uint8))
        assert (state.get("mask") == mask).all()
        assert (state.counters.step, np.float32(state.counters.threshold)) == (2 * seed + 1, np.float32(threshold))
        # Cut down to a budget, in every second run to one that fits none of the layers chosen.
        status, base = np.ones(40, np.uint8), np.arange(40) % 3 != 0 if seed % 2 else np.arange(40) < 30
        budget = 0.8 if seed % 2 else float(costs[35] + costs[76])
        norms.launch(
            state.arguments(norms, state.rule("fixed", fixed=base, costs=costs, budget=budget)), max_blocks=2 + seed
        )
        mask, said = within_budget(emulator, scores, status, base, costs, budget)
        assert (state.get("mask") == mask).all()
        assert said_by(state) == said
    far = Norms(emulator, [Gradient(None, "float32")], numels=[2**31])
    items = far.plan["items"].copy()
    items["length"][-1] = 100
    far.items = emulator.module.to_device(items, "items", ro=True)
    buffer = emulator.module.to_device(np.ones(100, np.float32), "gradient", ro=True)
    far.pointers[0] = (buffer.ptr - 4 * int(items["offset"][-1])) % 2**64
    far.launch(units=(len(items) - 1, len(items)))
    assert far.partials.get()[-1] == 100.0
    keep_and_restore(emulator, [(0, 0, 37), (3, 3, 100), (1, 2, 5)], gates=[1.0, 0.0, 1.0])


def test_the_kernels_as_they_are_pass(emulator: Emulator):
    exercise(emulator)


@pytest.mark.parametrize("defect", BROKEN)
def test_a_broken_copy_is_caught(run_ptx, toolchain, defect: str):
    emulator = Emulator(run_ptx, toolchain.launchers(), toolchain.broken_ptx(*BROKEN[defect]))
    with pytest.raises((run_ptx.PTXError, AssertionError)):
        exercise(emulator)
    emulator.module.close()
