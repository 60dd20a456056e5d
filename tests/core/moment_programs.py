"""Trainings in which gradients change after the backward pass, are missing, or come in several passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from layerselect import FastSelector
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LAYERS, WIDTH, STEPS = 5, 8, 7
Optimizer = torch.optim.Optimizer


class Net(nn.Module):
    """Residual blocks, which may be checkpointed, left out, or run twice, between an input and an output."""

    def __init__(self, outer_trains: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)) for _ in range(LAYERS)
        )
        self.leave = nn.Linear(WIDTH, 3)
        for module in (self.enter, self.leave):
            module.requires_grad_(outer_trains)
        self.left_out: tuple[int, ...] = ()
        self.reentrant: bool | None = None
        self.order = list(range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).clone()
        if not x.requires_grad:
            x.requires_grad_()
        for index in self.order:
            block = self.blocks[index]
            if index not in self.left_out:
                x = x + (block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant))
        return self.leave(x).square().mean()


def batch(seed: int) -> Tensor:
    return torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(seed))


Program = Callable[[Net, FastSelector, Optimizer], Iterator[list[float]]]
#: What a program says of a step: the norms that its layers' gradients had when the backward pass ended; NaN: none was
#: there.


def norms(model: Net) -> list[float]:
    found = []
    for index, block in enumerate(model.blocks):
        squares = [float(p.grad.double().square().sum()) for p in block.parameters() if p.grad is not None]
        found.append(math.nan if index in model.left_out or not squares else math.sqrt(math.fsum(squares)))
    return found


def clip(model: Net) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)


def finish(model: Net, selector: FastSelector, optimizer: Optimizer, set_to_none: bool = True) -> None:
    selector.step()
    optimizer.step()
    optimizer.zero_grad(set_to_none)


def clipped(model, selector, optimizer):
    for step in range(STEPS):
        model(batch(step)).backward()
        yield norms(model)
        clip(model)
        finish(model, selector, optimizer)


def accumulated(model, selector, optimizer):
    for step in range(STEPS):
        for micro in range(3):
            (model(batch(10 * step + micro)) / 3).backward()
        yield norms(model)
        clip(model)
        finish(model, selector, optimizer)


def two_passes_through_one_graph(model, selector, optimizer):
    for step in range(STEPS):
        loss = model(batch(step))
        loss.backward(retain_graph=True)
        loss.backward()
        yield norms(model)
        clip(model)
        finish(model, selector, optimizer)


def leaving_out(set_to_none: bool, left_out: dict[int, tuple[int, ...]]) -> Program:
    def program(model, selector, optimizer):
        for step in range(STEPS):
            model.left_out = left_out.get(step, ())
            model(batch(step)).backward()
            yield norms(model)
            clip(model)
            finish(model, selector, optimizer, set_to_none)

    return program


def one_parameter_left_out(model, selector, optimizer):
    linear = model.blocks[2][0]
    for step in range(STEPS):
        bias = linear.bias if step % 2 else linear.bias.detach()
        linear.forward = lambda x, bias=bias: nn.functional.linear(x, linear.weight, bias)
        model(batch(step)).backward()
        yield norms(model)
        clip(model)
        finish(model, selector, optimizer, set_to_none=step % 3 == 0)


def checkpointed(reentrant: bool) -> Program:
    def program(model, selector, optimizer):
        model.reentrant = reentrant
        yield from clipped(model, selector, optimizer)

    return program


def a_block_run_twice(model, selector, optimizer):
    model.order = [0, 1, 2, 3, 1, 4]
    model.reentrant = True
    yield from clipped(model, selector, optimizer)


def broken_off(model, selector, optimizer):
    """The pass ends in an exception; the one after it adds to what is there."""

    def refuse(_: Tensor) -> None:
        raise RuntimeError("stop here")

    for step in range(STEPS):
        handle = model.blocks[1][2].weight.register_hook(refuse)
        with pytest.raises(RuntimeError, match="stop here"):
            model(batch(step)).backward()
        handle.remove()
        model(batch(step)).backward()
        yield norms(model)
        clip(model)
        finish(model, selector, optimizer)


def unscaled_and_clipped(model, selector, optimizer):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(STEPS):
        model.left_out = (1,) if step in (0, 4) else ()
        scaler.scale(model(batch(step))).backward()
        yield [n / 2**10 for n in norms(model)]
        scaler.unscale_(optimizer)
        clip(model)
        selector.step(scaler)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


PROGRAMS: dict[str, Program] = {
    "clipped": clipped,
    "accumulated": accumulated,
    "two passes": two_passes_through_one_graph,
    "left out at first": leaving_out(True, {0: (2,), 1: (2, 4), 5: (0,)}),
    "left out at first, zeroed": leaving_out(False, {0: (2,), 1: (2, 4), 5: (0,)}),
    "left out later, zeroed": leaving_out(False, {2: (2,), 3: (2,), 5: (0, 1, 2, 3, 4)}),
    "one parameter": one_parameter_left_out,
    "reentrant": checkpointed(True),
    "not reentrant": checkpointed(False),
    "twice": a_block_run_twice,
    "broken off": broken_off,
    "unscaled": unscaled_and_clipped,
}


def run(program: Program, *, capture: str, backend: str = "native", outer_trains: bool = True, **options):
    """Histories of a run, and what the scores had to be."""
    model = Net(outer_trains)
    with FastSelector(model, "topk:k=3", mode="gate", capture=capture, backend=backend, **options) as selector:
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.05)
        selector.attach(optimizer)
        expected, held = [], [math.nan] * selector.num_layers
        for found in program(model, selector, optimizer):
            held = [old if math.isnan(new) else new for old, new in zip(held, found[: len(held)], strict=True)]
            expected.append(held)
        history = {name: torch.as_tensor(column) for name, column in selector.history.arrays().items()}
        counts = {"frequency": selector.frequency.clone(), "trained": selector.trained_frequency.clone()}
        return history, torch.tensor(expected), counts


def check_equal(one, other) -> None:
    for name in ("scores", "mask", "trained"):
        torch.testing.assert_close(one[0][name], other[0][name], rtol=0, atol=0, equal_nan=True)
    for name in one[2]:
        assert torch.equal(one[2][name], other[2][name]), name
