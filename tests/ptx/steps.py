"""Gradients of a small model, and the ways in which a step of it is launched."""

from __future__ import annotations

import ctypes as c

import numpy as np

from tests.ptx.device import Gradient, Norms, State, encode
from tests.ptx.emulator import Emulator
from tests.ptx.structs import FORMS

LAYERS = 6
# Two matrices, a vector that is not there in every layer, and an outer group; unequal sizes, mixed types.
NUMELS = [(5000, 300, 17)] * 3 + [(9000, 4097, 0)] * 3
DTYPES = ("float32", "bfloat16", "float16")
OUTER = 2345


def variance(emulator: Emulator, window=(0.35, 0.65)):
    def decide(scores: np.ndarray, status: np.ndarray):
        mask = np.zeros(scores.size, bool)
        threshold = emulator.lib.shim_variance(
            scores.ctypes.data_as(c.c_void_p),
            status.ctypes.data_as(c.c_void_p),
            c.c_int(scores.size),
            c.c_double(window[0]),
            c.c_double(window[1]),
            c.c_int(1),
            c.c_int(1),
            mask.ctypes.data_as(c.c_void_p),
        )
        return mask, threshold

    return decide


def gradients_of(rng: np.random.Generator, scales: np.ndarray) -> list[Gradient]:
    made = []
    for layer, sizes in enumerate(NUMELS):
        for dtype, n in zip(DTYPES, sizes, strict=True):
            made.append(Gradient(encode(rng.standard_normal(n) * scales[layer], dtype), dtype, int(rng.integers(0, 3))))
    made.append(Gradient(encode(rng.standard_normal(OUTER), "float32"), "float32"))
    return made


GROUPS = [layer for layer in range(LAYERS) for _ in DTYPES] + [LAYERS]
NUMELS_OF_LAYER = np.array([sum(sizes) for sizes in NUMELS], np.float64)


def raw_scores(gradients: list[Gradient], form: str, scale: float = 1.0) -> np.ndarray:
    squares = np.array([g.sqnorm() for g in gradients[:-1]]).reshape(LAYERS, 3) * scale**2
    with np.errstate(invalid="ignore"):
        if form == "rms":
            return np.sqrt(squares.sum(1) / NUMELS_OF_LAYER).astype(np.float32)
        if form == "sqrt_sum":
            return np.sqrt((squares**0.25).sum(1)).astype(np.float32)
        return np.sqrt(squares.sum(1)).astype(np.float32)


def by_one_launch(norms: Norms, state: State, args) -> int:
    return len(norms.launch(args, max_blocks=5))


def layer_by_layer(norms: Norms, state: State, args) -> int:
    """As the hooks do: each layer as its gradients come, last layer first; the outer group with the selection."""
    begin = norms.plan["unit_begin"].tolist()
    launches = 0
    for group in reversed(range(LAYERS)):
        launches += len(norms.launch(units=(begin[group], begin[group + 1]), max_blocks=5))
    return launches + len(norms.launch(args, units=(begin[LAYERS], begin[LAYERS + 1]), max_blocks=5))


def with_a_launch_for_the_selection(norms: Norms, state: State, args) -> int:
    return len(norms.launch(max_blocks=5)) + len(state.close_step(args))


def with_the_sums_first(norms: Norms, state: State, args) -> int:
    """As for shards: the sums by tensor, which change nothing else; then, from what they have become, the selection."""
    alone = type(args)()
    for name in ("partials", "item_begin", "tensor_sums", "num_reduced", "counters"):
        setattr(alone, name, getattr(args, name))
    alone.form = FORMS["none"]
    before = {name: state.get(name).tobytes() for name in state.buffers}
    launches = len(norms.launch(alone, max_blocks=5))
    assert {name: state.get(name).tobytes() for name in state.buffers} == before
    sums = norms.tensor_sums.get()
    np.testing.assert_allclose(sums[np.argsort(norms.plan["order"])], norms.tensor_sqnorms(), rtol=1e-12)
    args.num_reduced = 0
    return launches + len(state.close_step(args))


WAYS = {by_one_launch: 1, layer_by_layer: LAYERS + 1, with_a_launch_for_the_selection: 2, with_the_sums_first: 2}
