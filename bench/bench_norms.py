"""The norm pass beside a plain read of the same bytes, beside what torch offers, and between other work on the same
threads.

python -m pytest bench/bench_norms.py --benchmark-only --benchmark-enable -s
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from layerselect import _backend

from layouts import LAYOUTS, Turns

ROUNDS = 31
#: The least share of the read's speed, by layout and number of threads.
TARGETS = {("lora", 1): 0.6, ("full", 1): 0.85, ("lora", 2): 0.8, ("full", 2): 0.9}
#: How often each part of a step is repeated where parts are timed apart and in turn.
REPEATS = 4


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_norm_pass(benchmark, name, dtype, threads):
    layout = LAYOUTS[name](dtype)
    tensors, segments = layout.tensors, torch.tensor(layout.layer)
    native = _backend.load("native")
    words = layout.flat.view(torch.float32)  # reading is reading: the fastest way is over float32
    turns = Turns(
        {
            "read (sum)": words.sum,
            "segment_sqnorm": lambda: native.segment_sqnorm(tensors, segments, layout.num_layers, None),
            "read (dot)": lambda: torch.dot(words, words),
            "_foreach_norm": lambda: torch._foreach_norm(tensors),
            "_foreach_norm(float32)": lambda: torch._foreach_norm(tensors, dtype=torch.float32),
            ".norm() each": lambda: [t.norm() for t in tensors],
        }
    )
    turns.measure(benchmark, ROUNDS, threads)

    read = min(("read (sum)", "read (dot)"), key=turns.median)
    print(f"\n{name} {dtype}, {layout.num_bytes / 1e6:.0f} MB in {len(tensors)} tensors, {threads} thread(s)")
    print(f"{'':24s}      ms    GB/s   of the read")
    for contender in turns.seconds:
        speed = layout.num_bytes / turns.median(contender) / 1e9
        share = turns.ratio(read, contender)
        print(f"{contender:24s}{turns.median(contender) * 1e3:8.2f}{speed:8.1f}{share:10.2f}")
        benchmark.extra_info[contender] = {"ms": turns.median(contender) * 1e3, "of_read": share}
    share = turns.ratio_and_interval(read, "segment_sqnorm")
    faster = turns.ratio("_foreach_norm(float32)", "segment_sqnorm")
    print(
        f"segment_sqnorm: {share} of the read (target {TARGETS[name, threads]}), {faster:.1f} x _foreach_norm(float32)"
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_in_turn(benchmark, threads):
    """A forward pass, a norm pass and an optimizer step in turn, and each of them apart: if each had a pool of threads
    of its own, the ones that wait would take the cores of the ones that work.
    """
    layout = LAYOUTS["lora"](torch.float32)
    native = _backend.load("native")
    segments = torch.tensor(layout.layer)
    model = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(8)))
    inputs = torch.randn(512, 512)
    parameters = [torch.nn.Parameter(t.clone()) for t in layout.tensors]
    for p, gradient in zip(parameters, layout.tensors, strict=True):
        p.grad = gradient
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)

    def forward() -> None:
        with torch.no_grad():
            model(inputs)

    def norms() -> None:
        native.segment_sqnorm(layout.tensors, segments, layout.num_layers, None)

    def repeated(*parts: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(REPEATS):
                for part in parts:
                    part()

        return run

    apart = {"forward": forward, "norms": norms, "step": optimizer.step}
    turns = Turns(
        {name: repeated(part) for name, part in apart.items()} | {"in turn": repeated(forward, norms, optimizer.step)}
    )
    turns.measure(benchmark, ROUNDS, threads)
    each = ", ".join(f"{name} {turns.median(name) / REPEATS * 1e3:.2f} ms" for name in turns.seconds)
    print(f"\n{threads} thread(s): {each}; in turn to the sum apart: {turns.ratio_and_interval('in turn', *apart)}")
    benchmark.extra_info["ratio"] = turns.ratio("in turn", *apart)
