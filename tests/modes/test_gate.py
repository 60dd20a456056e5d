"""Gating: unselected layers keep weights and optimizer state bit for bit, selected ones train as if alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.core import step as core_module
from torch import Tensor

from tests.helpers.gated import Counting, everything_of
from tests.helpers.models import plain, plain_loss


def test_closure_computes_gradients_inside_the_step():
    model, twin = plain(), plain()
    selector = FastSelector(model, "fixed:layers=[1,4]", mode="gate")
    optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    plain_loss(model).backward()
    selector.step()

    def closure():
        optimizer.zero_grad()
        loss = plain_loss(model, 7)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    plain_loss(twin, 7).backward()
    for index, (block, other) in enumerate(zip(model.blocks, twin.blocks, strict=True)):
        for p, q in zip(block.parameters(), other.parameters(), strict=True):
            moved = q - 0.1 * q.grad if index in (1, 4) else q
            torch.testing.assert_close(p, moved, rtol=1e-6, atol=1e-7)
    assert float(loss) == pytest.approx(float(plain_loss(plain(), 7)))
    selector.step()
    assert optimizer.step(closure=closure) is not None
    assert all(p.grad is not None for p in model.parameters())


OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, fused=True),
    "counting": lambda parameters: Counting(parameters, lr=1e-2),  # the host gates it in any case
}


def micro_batches(optimizer_name: str, mode: str, *, inside: str) -> tuple[list[Tensor], list[list[bool]]]:
    """Weights and selections after steps over two micro-batches each. Lightning runs the second one in a closure, and
    with manual optimization neither.
    """
    model = plain()
    selector = FastSelector(model, "topk:k=2", mode=mode, probe_every=3)
    optimizer = OPTIMIZERS[optimizer_name](selector.trainable_parameters())
    selector.attach(optimizer)
    masks = []
    for step in range(5):

        def second(step: int = step) -> None:
            plain_loss(model, 2 * step + 1).backward()

        def closure(second: Callable[[], None] = second) -> None:
            if inside == "backward":
                second()
            selector.step()

        plain_loss(model, 2 * step).backward()
        if inside != "backward":
            second()
        if inside == "nothing":
            selector.step()
            optimizer.step()
        else:
            optimizer.step(closure)
        masks.append(selector.mask.tolist())
        optimizer.zero_grad()
    return [p.detach() for p in model.parameters()], masks


@pytest.mark.parametrize("inside", ["backward", "selector"])
@pytest.mark.parametrize("mode", ["gate", "freeze"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_a_closure_adds_to_the_gradients_that_are_there(monkeypatch, on_device, name, mode, inside):
    """Those of earlier micro-batches, also of the layers that the last selection left out."""
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: on_device)
    weights, masks = micro_batches(name, mode, inside=inside)
    others, other_masks = micro_batches(name, mode, inside="nothing")
    assert masks == other_masks and len(set(map(tuple, masks))) > 1
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


@pytest.mark.parametrize("in_place", [False, True])
def test_what_the_optimizer_clears_before_its_closure_does_not_come_back(in_place):
    """Sharpness-aware optimizers climb, clear the gradients, and call the closure for new ones."""

    class Climbing(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.data.add_(p.grad, alpha=0.01)
            self.zero_grad(set_to_none=not in_place)
            with torch.enable_grad():
                closure()
            return super().step()

    model = plain()
    selector = FastSelector(model, "fixed:layers=[1,4]", mode="gate")
    optimizer = Climbing(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    plain_loss(model).backward()
    selector.step()
    optimizer.step(lambda: plain_loss(model, 7).backward())
    # What is left of each gradient is that of the second pass alone, which lay between the two moves of the weights.
    again = plain()
    plain_loss(again).backward()
    for index, block in enumerate(again.blocks):
        for p in block.parameters() if index in (1, 4) else ():
            p.data.add_(p.grad, alpha=0.01)
    for p in [*again.embed.parameters(), *again.head.parameters()]:
        p.data.add_(p.grad, alpha=0.01)
    again.zero_grad()
    plain_loss(again, 7).backward()
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_close_detaches_the_optimizer():
    model = plain()
    selector = FastSelector(model, "fixed:layers=[0]", mode="gate")
    optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    plain_loss(model).backward()
    selector.step()
    selector.close()
    before = copy.deepcopy(model.state_dict())
    optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_gradients_come_back_after_a_step_that_raised():
    class Failing(torch.optim.SGD):
        fail = True

        def step(self, closure=None):
            if self.fail:
                raise RuntimeError("disk on fire")
            return super().step(closure)

    model = plain()
    selector = FastSelector(model, "fixed:layers=[0]", mode="gate")
    optimizer = Failing(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    plain_loss(model).backward()
    selector.step()
    with pytest.raises(RuntimeError, match="disk on fire"):
        optimizer.step()
    optimizer.fail = False
    optimizer.step()
    assert all(p.grad is not None for p in model.parameters())


def test_optimizer_over_other_parameters_is_refused():
    model = plain()
    selector = FastSelector(model, mode="gate")
    everything = selector.trainable_parameters()
    with pytest.raises(LayerSelectError, match=r"lacks 39 of the 39 .* first 'blocks.0.0.weight'"):
        selector.attach(torch.optim.SGD(plain(seed=1).parameters(), lr=0.1))
    with pytest.raises(LayerSelectError, match="lacks 1 of the 39 trainable parameters"):
        selector.attach(torch.optim.SGD(everything[:-1], lr=0.1))
    with pytest.raises(LayerSelectError, match="without an optimizer"):
        selector.attach()
    with pytest.raises(LayerSelectError, match="needs a torch.optim.Optimizer, not builtins.str"):
        selector.attach("adam")
    with pytest.raises(LayerSelectError, match="LBFGS moves all parameters"):
        selector.attach(torch.optim.LBFGS(everything))


def test_two_optimizers_share_the_parameters():
    model = plain()
    selector = FastSelector(model, "fixed:layers=[5]", mode="gate")
    everything = selector.trainable_parameters()
    first = torch.optim.SGD(everything[:10], lr=0.1)
    second = torch.optim.Adam(everything[10:], lr=0.1)
    selector.attach(first, second)
    plain_loss(model).backward()
    selector.step()

    def now() -> list[object]:
        return [[everything_of(each, block.parameters()) for each in (first, second)] for block in model.blocks]

    before = now()
    first.step()
    second.step()
    assert [i for i, after in enumerate(now()) if after != before[i]] == [5]


def test_optimizer_built_after_the_selector_is_complete():
    """Between passes a frozen layer's parameters require gradients as the user set them, so a filter by that finds them
    all.
    """
    model = plain()
    selector = FastSelector(model, "fixed:layers=[5]", mode="freeze")
    late = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    selector.attach(late)
    partial = torch.optim.SGD(model.blocks[5].parameters(), lr=0.1)
    with pytest.raises(LayerSelectError, match="build it from selector.trainable_parameters"):
        selector.attach(partial)


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("fused", [False, True])
def test_freezing_moves_what_is_selected_and_took_gradients(fused, on_device, monkeypatch):
    """With zeros left where there were gradients, a layer chosen again while it is frozen would be decayed."""
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: on_device)
    model = plain()
    selector = FastSelector(model, "topk:k=2", mode="freeze", lag=1, probe_every=0)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2, weight_decay=0.1, fused=fused)
    selector.attach(optimizer)
    seen_apart = 0
    for step in range(20):
        trained = selector.trained()
        loud = [i for i in range(6) if (i + step) % 3 == 0 and i in trained]
        handles = [model.blocks[i][1].weight.register_hook(lambda g: 10 * g) for i in loud]
        plain_loss(model, step).backward()
        for handle in handles:
            handle.remove()
        selector.step()
        before = [everything_of(optimizer, block.parameters()) for block in model.blocks]
        optimizer.step()
        moved = [i for i, b in enumerate(model.blocks) if everything_of(optimizer, b.parameters()) != before[i]]
        assert moved == [i for i in selector.selected() if i in trained], step
        seen_apart += moved != selector.selected()
        optimizer.zero_grad(set_to_none=False)
    assert seen_apart > 3


@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_fused_momentum_starts_layer_by_layer(mode):
    """torch's fused SGD knows a first step of all parameters, and fails where only some have a momentum."""
    model, twin = plain(), plain()
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    selector = FastSelector(model, "random:k=2", mode=mode, seed=4)
    optimizer = torch.optim.SGD(selector.trainable_parameters(), fused=True, **options)
    expected = torch.optim.SGD(twin.parameters(), **options)
    selector.attach(optimizer)
    for step in range(12):
        plain_loss(model, step).backward()
        plain_loss(twin, step).backward()
        selector.step()
        for index, block in enumerate(twin.blocks):
            if index not in selector.selected():
                block.zero_grad()
        optimizer.step()
        expected.step()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        model.zero_grad()
        twin.zero_grad()
