"""What ``selector.step()`` costs on the host, and what building, attaching and closing cost, by the number of layers
and tensors.

python -m pytest bench/bench_step.py --benchmark-only --benchmark-enable -s

The tensors have four elements each: what is measured is the host's work, not the reading of gradients. Gradients are
handed to the parameters, so the backward pass is next to nothing, too. `bench_overhead.py` puts a step of the selector
beside a whole training step.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from layerselect import FastSelector
from layerselect.core import step as core_module
from torch import nn

from layouts import bootstrap_interval

ROUNDS = 25
#: Layers, matrices in each.
SHAPES = {"30 x 14": (30, 14), "1024 x 1": (1024, 1), "1024 x 7": (1024, 7), "48 x 776": (48, 776)}
CASES = [
    ("observe", "host", "backward", "variance"),
    ("gate", "host", "backward", "variance"),
    ("gate", "device", "backward", "variance"),
    ("freeze", "host", "backward", "variance"),
    ("gate", "host", "step", "topk:k=8"),
]


@pytest.mark.parametrize("mode,decides,capture,rule", CASES, ids=["-".join(case[:3]) for case in CASES])
@pytest.mark.parametrize("name", SHAPES)
def test_step(benchmark, monkeypatch, name, mode, decides, capture, rule):
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: decides == "device")
    torch.set_num_threads(1)
    layers, matrices = SHAPES[name]
    model = nn.Module()
    model.blocks = nn.ModuleList(
        nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(matrices))) for _ in range(layers)
    )
    start = time.perf_counter()
    selector = FastSelector(model, rule, mode=mode, capture=capture)
    built = time.perf_counter() - start
    parameters = list(model.parameters())
    gradients = [torch.randn(2, 2) for _ in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    start = time.perf_counter()
    if mode != "observe":
        selector.attach(optimizer)
    attached = time.perf_counter() - start

    def backward() -> None:
        if mode != "freeze":
            torch.autograd.backward(parameters, gradients)
            return
        for block in model.blocks:  # a pass, in which frozen layers take no gradients
            block(torch.ones(1, 2))
        trained = [i for layer in selector.trained() for i in range(layer * matrices, (layer + 1) * matrices)]
        torch.autograd.backward([parameters[i] for i in trained], [gradients[i] for i in trained])

    seconds: list[float] = []

    def one() -> None:
        backward()
        start = time.perf_counter()
        selector.step()
        seconds.append(time.perf_counter() - start)
        if mode != "observe":
            optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        one()
    seconds.clear()
    benchmark.pedantic(one, rounds=ROUNDS)
    start = time.perf_counter()
    selector.close()
    closed = time.perf_counter() - start
    low, high = bootstrap_interval([seconds])
    print(
        f"\n{name}, {mode}, decided by the {decides}, capture {capture!r}: step() "
        f"{statistics.median(seconds) * 1e3:.2f} ms ({low * 1e3:.2f} to {high * 1e3:.2f}), building "
        f"{built * 1e3:.0f}, attaching {attached * 1e3:.0f}, closing {closed * 1e3:.0f}"
    )
    benchmark.extra_info["step_ms"] = statistics.median(seconds) * 1e3
