"""Many optimizers of one tensor each: what they share is found once, and anew when it may have changed."""

from __future__ import annotations

import sys

import pytest
import torch
from layerselect import FastSelector
from layerselect.core import step as core_module
from layerselect.modes import nonfinite
from layerselect.modes.gate import selected_by_host
from layerselect.modes.nonfinite import NonFinite
from torch import nn

from tests.helpers.gated import bits

KINDS = {
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
    "foreach": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, foreach=True),
}
EACH = pytest.mark.parametrize("kind", KINDS)
WHO = pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])


class Stack(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(layers))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x.square().mean()


def attached(kind: str, layers: int = 6, rule: str = "topk:k=3"):
    model = Stack(layers)
    selector = FastSelector(model, rule, mode="gate")
    optimizers = [KINDS[kind]([p]) for p in selector.trainable_parameters()]
    selector.attach(*optimizers)
    return model, selector, optimizers


def moved_by(optimizers, model) -> list[int]:
    before = [bits(block.weight) for block in model.blocks]
    for optimizer in optimizers:
        optimizer.step()
    return [index for index, block in enumerate(model.blocks) if bits(block.weight) != before[index]]


@EACH
def test_what_a_device_stops_is_found_once_in_a_step(kind, monkeypatch):
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: True)
    model, selector, optimizers = attached(kind)
    found, decide = [], NonFinite._decide
    monkeypatch.setattr(NonFinite, "_decide", lambda self, spread: found.append(spread) or decide(self, spread))
    with selector:
        for step in range(3):
            model(torch.ones(1, 2) + step).backward()
            selector.step()
            assert moved_by(optimizers, model) == selector.selected()
            assert found == (step + 1) * [False]
            model.zero_grad()


@EACH
def test_gradients_that_were_written_to_are_their_own_optimizers_matter(kind, monkeypatch):
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: True)
    model, selector, optimizers = attached(kind)
    with selector:
        model.blocks[0].weight.register_hook(lambda gradient: gradient * float("nan"))
        model(torch.ones(1, 2)).backward()
        selector.step()
        last = selector.selected()[-1]
        model.blocks[last].weight.grad.mul_(float("nan"))  # as who clips by a norm that is not finite
        assert moved_by(optimizers, model) == selector.selected()[:-1]


@EACH
def test_a_selection_that_was_written_between_two_steps_governs_the_second(kind, monkeypatch):
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: True)
    model, selector, optimizers = attached(kind)
    with selector:
        model(torch.ones(1, 2)).backward()
        selector.step()
        assert moved_by(optimizers, model) == selector.selected()
        selector._core.state["gate"].fill_(1.0)[2] = 0.0
        assert moved_by(optimizers, model) == [2]


@EACH
@WHO
def test_a_step_of_the_selector_that_failed_behind_its_decision(kind, on_device, monkeypatch):
    """Nothing of the last one is used again."""
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: on_device)
    model, selector, optimizers = attached(kind, rule="random:k=3")

    def fail(*_: object) -> None:
        raise RuntimeError("disk on fire")

    with selector:
        model(torch.ones(1, 2)).backward()
        selector.step()
        first = moved_by(optimizers, model)
        monkeypatch.setattr(type(selector.rule), "after_step", fail)
        for _ in range(8):
            with pytest.raises(RuntimeError, match="disk on fire"):
                selector.step()
            if selector.selected() != first:
                break
        assert moved_by(optimizers, model) == selector.selected()


@EACH
@WHO
def test_a_step_calls_as_much_however_many_there_are(kind, on_device, monkeypatch):
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: on_device)

    def calls(layers: int) -> int:
        model, selector, optimizers = attached(kind, layers, "fixed:layers=[1]")
        counted = []
        with selector:
            model(torch.ones(1, 2)).backward()
            selector.step()
            for _ in range(2):
                moved_by(optimizers, model)
            sys.setprofile(lambda frame, event, arg: counted.append(event) if event in ("call", "c_call") else None)
            try:
                optimizers[1].step()
            finally:
                sys.setprofile(None)
        return len(counted)

    assert calls(4) == calls(40)


def test_the_host_reads_a_selection_where_it_lies():
    mask = torch.zeros(3, dtype=torch.bool)
    selected = selected_by_host(mask)
    mask[1] = True
    assert list(selected()) == [False, True, False]


@EACH
def test_nothing_that_was_found_in_a_capture_is_used_behind_it(kind, monkeypatch):
    """Its tensors hold what the last replay left in them."""
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: True)
    model, selector, optimizers = attached(kind)
    found, decide = [], NonFinite._decide
    with selector:
        model(torch.ones(1, 2)).backward()
        selector.step()
        moved_by(optimizers, model)
        selector.step()
        monkeypatch.setattr(NonFinite, "_decide", lambda self, spread: found.append(spread) or decide(self, spread))
        with monkeypatch.context() as capture:
            capture.setattr(nonfinite, "is_capturing", lambda device: True)
            moved_by(optimizers, model)
        assert len(found) == len(optimizers)
        assert moved_by(optimizers, model) == selector.selected()
        assert len(found) == len(optimizers) + 1
