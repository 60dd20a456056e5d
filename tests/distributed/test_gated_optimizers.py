"""Mode ``gate`` over shards and replicas: unselected layers stay bit for bit, selected ones move as without the
gate.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from layerselect import FastSelector
from layerselect.core import step as core_module
from layerselect.distributed.sharding import held_here
from torch import Tensor, nn

from tests.distributed.training import OPTIMIZERS, loss_of, wrap
from tests.helpers.models import plain

PROCESSES = 2
STEPS = 4
#: Kept copies begin when every layer has been selected once: before that, part of the optimizer's state is not there.
LONGER = 8


def held(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Copies of what this process holds of a parameter and of its optimizer state."""
    state = {k: v for k, v in optimizer.state.get(parameter, {}).items() if isinstance(v, Tensor)}
    return {name: held_here(value).detach().clone() for name, value in {"weight": parameter, **state}.items()}


def blocks_of(model: nn.Module) -> list[list[nn.Parameter]]:
    return [list(block.parameters()) for block in getattr(model, "module", model).blocks]


def run(engine: str, optimizer_name: str, steps: int = STEPS) -> str:
    """Returns the kind of the gate."""
    model, twin = (wrap(engine, plain()) for _ in range(2))
    selector = FastSelector(model, "random:k=3", seed=1)
    optimizer, free = (OPTIMIZERS[optimizer_name](list(m.parameters())) for m in (model, twin))
    selector.attach(optimizer)
    for step in range(steps):
        loss_of(model, step).backward()
        selector.step()
        before = [[held(optimizer, p) for p in block] for block in blocks_of(model)]
        gradients = [p.grad for p in model.parameters()]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
        mask = selector.mask.tolist()
        assert sum(mask) == 3
        for block, was, selected in zip(blocks_of(model), before, mask, strict=True):
            for parameter, values in zip(block, was, strict=True):
                now = held(optimizer, parameter)
                # A moment that was not there before may be there now as zeros.
                for name, value in now.items():
                    same = torch.equal(value, values.get(name, torch.zeros_like(value)))
                    assert same or (selected and value.numel()), (engine, optimizer_name, step, name)
        # The twin's optimizer is not gated; what is not to move has no gradient.
        loss_of(twin, step).backward()
        for block, selected in zip(blocks_of(twin), mask, strict=True):
            for parameter in block:
                parameter.grad = parameter.grad if selected else None
        free.step()
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(held_here(a), held_here(b)), (engine, optimizer_name, step)
        optimizer.zero_grad()
        free.zero_grad()
    (gate,) = selector._attachment._hooks
    assert getattr(gate, "_keeper", gate) is not None  # nothing was left to the host for good
    return type(gate).__name__


def on_the_host(folder: Path) -> list[str]:
    return [run(engine, name) for name in OPTIMIZERS for engine in ("ddp", "fsdp2")]


def on_the_device(folder: Path) -> list[str]:
    """Fused kernels and kept copies, on the launchers' twins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core_module, "_has_kernels", lambda settings: True)
        return [run("fsdp2", name, LONGER) for name in ("adamw", "adamw-fused", "sgd")]


CHECKS = [on_the_host, on_the_device]


def test_host_gates(returned):
    assert returned(on_the_host) == [["Gate"] * 8] * PROCESSES


def test_device_gates(returned):
    assert returned(on_the_device) == [["KeepingGate", "FusedGate", "KeepingGate"]] * PROCESSES
