"""What the gate adds to ``optimizer.step()`` on the host, where tensors are many and small.

python -m pytest bench/bench_gate.py --benchmark-only --benchmark-enable -s

The tensors have four elements each, so the arithmetic is next to nothing and a step is what the host does for it. The
gates of a device run over the host's twins of its kernels. Gated and ungated steps take turns in one process; the ratio
is the median of those of the rounds. With FSDP2 the tensors are ``DTensor`` of a mesh of one process, for whose
operations the host does the same as for those of many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from layerselect import FastSelector
from layerselect.core import step as core_module
from torch import nn
from torch.distributed.fsdp import fully_shard

from layouts import Turns

#: Layers, matrices in each.
SHAPES = {"80 x 14": (80, 14), "48 x 776": (48, 776), "480 x 1": (480, 1)}
TARGETS = {"80 x 14": 1.15, "48 x 776": 1.25, "480 x 1": 1.5}
SHARDED_TARGET = 1.3
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


@pytest.fixture
def one_process(tmp_path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("decides", ["device", "host"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", SHAPES)
def test_gate(benchmark, monkeypatch, name, kind, decides):
    layers, matrices = SHAPES[name]
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: decides == "device")
    _compare(benchmark, lambda: Stack(layers, matrices), name, kind, decides, TARGETS[name])


@pytest.mark.parametrize("decides", ["device", "host"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_gate_sharded(benchmark, monkeypatch, one_process, kind, decides):
    def sharded() -> nn.Module:
        model = Stack(*SHAPES["80 x 14"])
        for block in model.blocks:
            for linear in block:
                fully_shard(linear)
        return fully_shard(model)  # a ModuleList computes nothing, so its maps are sharded one by one

    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: decides == "device")
    _compare(benchmark, sharded, "80 x 14 under FSDP2", kind, decides, SHARDED_TARGET)


def _compare(benchmark, build: Callable[[], nn.Module], name: str, kind: str, decides: str, target: float) -> None:
    def steps(model: nn.Module) -> tuple[list[torch.optim.Optimizer], Callable[[], None]]:
        held = list(model.parameters())
        for p in held:
            p.grad = torch.ones_like(p)
        parts = [[p] for p in held] if name == "480 x 1" else [held]
        optimizers = [OPTIMIZERS[kind](part) for part in parts]

        def run() -> None:
            for optimizer in optimizers:
                optimizer.step()

        return optimizers, run

    model = build()
    optimizers, gated = steps(model)
    selector = FastSelector(model, f"topk:k={len(model.blocks) // 2}", mode="gate")
    selector.attach(*optimizers)
    selector.step()
    _, ungated = steps(build())

    turns = Turns({"ungated": ungated, "gated": gated}, time.process_time)
    turns.measure(benchmark, 5 if name == "48 x 776" else 15, 1)
    ratio = turns.ratio("gated", "ungated")
    gate = type(selector._attachment._hooks[0]).__name__
    print(
        f"\n{name}, {kind}, decided by the {decides} ({gate}): ungated {turns.median('ungated') * 1e3:.2f} ms, gated "
        f"{turns.median('gated') * 1e3:.2f} ms, ratio {ratio:.2f} (target: below {target})"
    )
    benchmark.extra_info["ratio"] = ratio
    selector.close()
