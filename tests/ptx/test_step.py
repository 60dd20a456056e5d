"""Whole steps: gradients in, mask and everything else out, by one launch or by many."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx.device import Gradient, Norms, State, encode
from tests.ptx.emulator import Emulator
from tests.ptx.steps import (
    GROUPS,
    LAYERS,
    NUMELS_OF_LAYER,
    WAYS,
    by_one_launch,
    gradients_of,
    layer_by_layer,
    raw_scores,
    variance,
)
from tests.ptx.twin import Twin


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_steps_of_a_run(emulator: Emulator, way):
    """Warm-up, interval, held scores, gradients that are missing or not finite, layers that leave for good, a ring of
    history that wraps.
    """
    rng = np.random.default_rng(1)
    form = {by_one_launch: "l2", layer_by_layer: "rms"}.get(way, "sqrt_sum")
    twin = Twin(LAYERS, variance(emulator), warmup=2, interval=2)
    state = State(emulator, LAYERS, history_rows=3, numels=NUMELS_OF_LAYER)
    norms = Norms(emulator, gradients_of(rng, np.ones(LAYERS)), GROUPS, LAYERS + 1)
    for step in range(9):
        emulator.options = {"seed": step, "chaos": True, "resident": 1 + step % 4}
        gradients = gradients_of(rng, rng.lognormal(0, 1, LAYERS))
        active = [True] * LAYERS
        present = [True] * (LAYERS + 1)
        if step == 3:  # layer 0 is not finite, layer 2 frozen: its old partials must not count
            gradients[0].bits[77] = np.inf
            active[2] = present[2] = False
        late = [False] * (LAYERS + 1)
        took = [True] * LAYERS
        if step in (0, 5):  # layer 4 was to take gradients, but got none
            present[4] = took[4] = False
            for i in range(12, 15):
                gradients[i] = Gradient(None, gradients[i].dtype)
        if step in (1, 7):  # layer 5 has but zeros, which no hook has seen: that is none either; layer 3 has others
            late[3] = late[5] = True
            took[5] = False
            for i in range(15, 18):
                gradients[i].bits[:] = 0
        first_layer = 2 if step >= 6 else 0
        if first_layer:
            twin.out[:first_layer] = True
            active[:first_layer] = present[:first_layer] = [False] * first_layer
        for i, gradient in enumerate(gradients):
            norms.set(i, gradient)
        args = state.arguments(
            norms,
            state.rule("variance", window=(0.35, 0.65), inclusive=1, splits=1),
            form=form,
            warmup=2,
            interval=2,
            present=present,
            active=active,
            first_layer=first_layer,
            late=late,
        )
        assert way(norms, state, args) == WAYS[way]
        raw = raw_scores(gradients, form)
        device = state.get("scores")
        known = np.isfinite(raw) & np.asarray(active) & np.asarray(took)
        np.testing.assert_allclose(device[known], raw[known], rtol=1e-6)
        # The oracle goes on from the device's own scores: they may differ in the last bit, and the rest may not.
        twin.close_step(np.where(known, device, raw), active, took)
        expect(state, twin)
        squares = [g.sqnorm() for g, group in zip(gradients, GROUPS, strict=True) if present[group]]
        np.testing.assert_allclose(state.counters.total_norm, np.sqrt(np.sum(squares)), rtol=1e-6)
    assert state.counters.tickets == 0
    assert twin.nonfinite.tolist() == [1, 0, 0, 0, 0, 0]
    assert not twin.mask[:2].any() and twin.mask[2:].any()


def expect(state: State, twin: Twin) -> None:
    for name in ("scores", "status", "nonfinite", "decided", "mask", "wanted", "gate", "frequency"):
        expected = np.asarray(getattr(twin, name))
        assert state.get(name).tobytes() == expected.astype(state.get(name).dtype).tobytes(), name
    counters = state.counters
    assert counters.step == twin.step
    np.testing.assert_equal(np.float32(counters.threshold), twin.threshold)
    row = twin.rows[-1]
    at = int(row["step"]) % state.history_rows
    for name, expected in row.items():
        np.testing.assert_equal(state.get(f"history_{name}")[at], expected.astype(state.get(f"history_{name}").dtype))


@pytest.mark.parametrize("form", ["l2", "rms", "sqrt_sum"])
def test_inv_scale_is_read_on_the_device(emulator: Emulator, form: str):
    rng = np.random.default_rng(2)
    gradients = gradients_of(rng, np.ones(LAYERS))
    norms = Norms(emulator, gradients, GROUPS, LAYERS + 1)
    state = State(emulator, LAYERS, numels=NUMELS_OF_LAYER)
    norms.launch(state.arguments(norms, state.rule("all"), form=form, inv_scale=2.0**-12))
    np.testing.assert_allclose(state.get("scores"), raw_scores(gradients, form, 2.0**-12), rtol=1e-6)
    # Late groups have a scale of their own: their sums are of another moment.
    squares = np.bincount(GROUPS, [g.sqnorm() for g in gradients])
    for late in ((LAYERS,), (1, 4)):
        for late_inv_scale in (None, 2.0**-3):
            flags = [group in late for group in range(LAYERS + 1)]
            scales = np.where(flags, late_inv_scale or 1.0, 2.0**-12)
            args = state.arguments(
                norms, state.rule("all"), inv_scale=2.0**-12, late=flags, late_inv_scale=late_inv_scale
            )
            norms.launch(args)
            np.testing.assert_allclose(state.get("group_sums"), squares * scales**2, rtol=1e-6)
            np.testing.assert_allclose(state.counters.total_norm, np.sqrt(np.sum(squares * scales**2)), rtol=1e-6)


@pytest.mark.parametrize("form", ["l2", "rms", "sqrt_sum"])
def test_a_negative_sum_says_that_there_is_no_gradient(emulator: Emulator, form: str):
    """As processes tell each other: of layer 1 nobody has any, of layer 2 one tensor is missing, and of the outer
    group.
    """
    rng = np.random.default_rng(6)
    gradients = gradients_of(rng, np.ones(LAYERS))
    norms = Norms(emulator, gradients, GROUPS, LAYERS + 1)
    state = State(emulator, LAYERS, numels=NUMELS_OF_LAYER)
    args = state.arguments(norms, state.rule("top", k=6), form=form)
    norms.launch(args)
    before = state.get("scores")
    lacking = [3, 4, 5, 7, 18]
    sums = norms.tensor_sums.get()
    sums[np.argsort(norms.plan["order"])[lacking]] = -1.0
    norms.tensor_sums.set(sums)
    args.num_reduced = 0
    state.close_step(args)
    for i in lacking:
        gradients[i] = Gradient(np.zeros_like(gradients[i].bits), gradients[i].dtype)
    expected = raw_scores(gradients, form)
    expected[1] = before[1]
    np.testing.assert_allclose(state.get("scores"), expected, rtol=1e-6)
    assert state.get("status").tolist() == [1] * LAYERS and state.get("mask").all()
    assert state.get("group_sums")[[1, LAYERS]].tolist() == [0.0, 0.0]
    assert state.get("frequency").tolist() == [2] * LAYERS + [2, 1, 2, 2, 2, 2]
    assert state.get("history_trained")[1].tolist() == [1, 0, 1, 1, 1, 1]


def all_of(state: State) -> dict[str, bytes]:
    """Everything but the norms, which a skipped step has, too."""
    found = {name: state.get(name) for name in state.buffers if name != "group_sums"}
    found["counters"] = np.delete(found["counters"], np.s_[8:16])
    # Of the ring only the row of the first step is written.
    return {name: (value[:1] if name.startswith("history") else value).tobytes() for name, value in found.items()}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("broken", ["layer", "outer", "frozen"])
def test_a_step_with_a_gradient_that_is_not_finite_is_skipped(emulator: Emulator, way, broken: str):
    rng = np.random.default_rng(3)
    norms = Norms(emulator, gradients_of(rng, np.ones(LAYERS)), GROUPS, LAYERS + 1)
    state = State(emulator, LAYERS, numels=NUMELS_OF_LAYER)
    rule = state.rule("top", k=2)
    way(norms, state, state.arguments(norms, rule))
    before = all_of(state)
    gradients = gradients_of(rng, np.full(LAYERS, 9.0))
    gradients[-1 if broken == "outer" else 4].bits[3] = np.inf if broken == "outer" else 0x7FC0  # bfloat16 NaN
    for i, gradient in enumerate(gradients):
        norms.set(i, gradient)
    # A layer that takes no gradients has none in this step, whatever an earlier one left behind.
    present = [broken != "frozen" or i != 1 for i in range(LAYERS + 1)]
    scale = {"inv_scale": 0.5, "late": [i > 2 for i in range(LAYERS + 1)], "late_inv_scale": 0.5}
    way(norms, state, state.arguments(norms, rule, present=present, skip_nonfinite=True, skip=0.0, **scale))
    squares = [
        0.25 * sum(g.sqnorm() for g, group in zip(gradients, GROUPS, strict=True) if group == i and present[i])
        for i in range(LAYERS + 1)
    ]
    np.testing.assert_allclose(state.get("group_sums"), squares, rtol=1e-6)
    np.testing.assert_allclose(state.counters.total_norm, np.sqrt(np.sum(squares)), rtol=1e-6)
    if broken == "frozen":
        assert state.counters.step == 2 and np.isfinite(state.counters.total_norm)
        return
    assert not np.isfinite(state.counters.total_norm)
    assert all_of(state) == before
    # Without the flag it is a step like any other, in which that layer is left out.
    way(norms, state, state.arguments(norms, rule))
    assert state.counters.step == 2
    assert state.get("nonfinite").tolist() == [0, int(broken == "layer"), 0, 0, 0, 0]
    assert state.counters.tickets == 0


def test_what_the_optimizer_skips_is_skipped(emulator: Emulator):
    """``found_inf`` of a scaler, which may have seen what these gradients do not show."""
    rng = np.random.default_rng(3)
    norms = Norms(emulator, gradients_of(rng, np.ones(LAYERS)), GROUPS, LAYERS + 1)
    state = State(emulator, LAYERS, numels=NUMELS_OF_LAYER)
    rule = state.rule("top", k=2)
    norms.launch(state.arguments(norms, rule))
    before = all_of(state)
    gradients = gradients_of(rng, np.full(LAYERS, 9.0))
    for i, gradient in enumerate(gradients):
        norms.set(i, gradient)
    norms.launch(state.arguments(norms, rule, skip=2.0))
    assert all_of(state) == before
    np.testing.assert_allclose(state.counters.total_norm, np.sqrt(sum(g.sqnorm() for g in gradients)), rtol=1e-6)
    norms.launch(state.arguments(norms, rule, skip=0.0, skip_nonfinite=True))
    assert state.counters.step == 2


@pytest.mark.parametrize("large_table", [False, True])
def test_selection_after_several_launches(emulator: Emulator, large_table: bool):
    """500 tensors: two launches with the small table; only the last one selects, and it sees the partials of both."""
    rng = np.random.default_rng(4)
    gradients = [
        Gradient(encode(rng.standard_normal(int(n)), "bfloat16"), "bfloat16") for n in rng.integers(1, 60, 500)
    ]
    groups = [i // 50 for i in range(500)]
    norms = Norms(emulator, gradients, groups, 11)
    state = State(emulator, 10, history_rows=0)
    emulator.options = {"seed": 1, "chaos": True}
    launches = norms.launch(state.arguments(norms, state.rule("top", k=3)), large_table=large_table)
    kernels = [launch.kernel.removeprefix("layerselect_norms_") for launch in launches]
    assert kernels == (["select_large"] if large_table else ["small", "select_small"])
    expected = np.sqrt(np.array([g.sqnorm() for g in gradients]).reshape(10, 50).sum(1))
    np.testing.assert_allclose(state.get("scores"), expected, rtol=1e-6)
    assert sorted(np.argsort(expected)[-3:]) == np.flatnonzero(state.get("mask")).tolist()


def test_same_bits_whatever_the_grid_and_the_order(emulator: Emulator):
    rng = np.random.default_rng(5)
    gradients = gradients_of(rng, rng.lognormal(0, 1, LAYERS))
    seen = set()
    for seed in range(8):
        emulator.options = {"seed": seed, "chaos": True, "resident": 1 + seed}
        norms = Norms(emulator, gradients, GROUPS, LAYERS + 1)
        state = State(emulator, LAYERS, numels=NUMELS_OF_LAYER)
        for _ in range(2):  # the ticket resets itself
            norms.launch(
                state.arguments(norms, state.rule("variance", window=(0, 1), inclusive=1, splits=1)),
                max_blocks=1 + seed,
            )
        names = ("scores", "mask", "gate", "frequency", "counters", "history_scores")
        seen.add(
            b"".join(
                state.get(name)[:2].tobytes() if "history" in name else state.get(name).tobytes() for name in names
            )
        )
        norms.free()
    assert len(seen) == 1


def test_a_model_without_gradients_at_all(emulator: Emulator):
    norms = Norms(emulator, [], [], 2)
    state = State(emulator, 1)
    norms.launch(state.arguments(norms, state.rule("all"), present=[False, False], active=[True]))
    assert np.isnan(state.get("scores")).all() and state.get("status").tolist() == [0]
    assert state.get("mask").tolist() == [0] and state.get("wanted").tolist() == [1]
    assert state.counters.total_norm == 0.0
