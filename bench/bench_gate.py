"""What the gate adds to ``optimizer.step()`` on the host, where tensors are many and small.

python -m pytest bench/bench_gate.py --benchmark-only --benchmark-enable -s

The tensors have four elements each, so the arithmetic is next to nothing and a step is what the host does for it. The gates of a device run over
the host's twins of its kernels. Gated and ungated steps take turns in one process; the ratio is the median of those of the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from layerselect import FastSelector
from layerselect import core as core_module
from torch import nn

from layouts import Turns

#: Layers, matrices in each.
SHAPES = {"80 x 14": (80, 14), "48 x 776": (48, 776), "480 x 1": (480, 1)}
TARGETS = {"80 x 14": 1.15, "48 x 776": 1.25, "480 x 1": 1.5}
OPTIMIZERS = {
    "fused": lambda ps: torch.optim.AdamW(ps, lr=1e-3, fused=True),
    "foreach": lambda ps: torch.optim.AdamW(ps, lr=1e-3, foreach=True),
}


class Stack(nn.Module):
    def __init__(self, layers: int, matrices: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(matrices)) for _ in range(layers)
        )


@pytest.mark.parametrize("decides", ["device", "host"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", SHAPES)
def test_gate(benchmark, monkeypatch, name, kind, decides):
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: decides == "device")
    layers, matrices = SHAPES[name]

    def steps(model: nn.Module) -> tuple[list[torch.optim.Optimizer], Callable[[], None]]:
        held = list(model.parameters())
        for p in held:
            p.grad = torch.ones_like(p)
        parts = [[p] for p in held] if matrices == 1 else [held]
        optimizers = [OPTIMIZERS[kind](part) for part in parts]

        def run() -> None:
            for optimizer in optimizers:
                optimizer.step()

        return optimizers, run

    model = Stack(layers, matrices)
    optimizers, gated = steps(model)
    selector = FastSelector(model, f"topk:k={layers // 2}", mode="gate")
    selector.attach(*optimizers)
    selector.step()
    _, ungated = steps(Stack(layers, matrices))

    turns = Turns({"ungated": ungated, "gated": gated}, time.process_time)
    turns.measure(benchmark, 5 if matrices > 100 else 15, 1)
    ratio = turns.ratio("gated", "ungated")
    gate = type(selector._attachment._hooks[0]).__name__
    print(
        f"\n{name}, {kind}, decided by the {decides} ({gate}): ungated {turns.median('ungated') * 1e3:.2f} ms, gated "
        f"{turns.median('gated') * 1e3:.2f} ms, ratio {ratio:.2f} (target: below {TARGETS[name]})"
    )
    benchmark.extra_info["ratio"] = ratio
    selector.close()
