"""Around ``optimizer.step()``: gradients that the selector has not seen are refused before anything moves."""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.core import step as core_module

from tests.helpers.models import plain, plain_loss
from tests.helpers.watched import build, one_step, said
from tests.helpers.wrappers import moved, weights_of

ORDER = "SGD.step.. was called with gradients that selector.step.. has not seen.*before optimizer.step"
IDLE = "no attached optimizer (SGD) has stepped in between"


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("mode", ["gate", "freeze"])
@pytest.mark.parametrize("begun", [False, True])
def test_the_wrong_order_is_refused_before_anything_moves(mode, begun, on_device, monkeypatch):
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: on_device)
    model, selector, optimizer = build(mode)
    with selector:
        if begun:
            one_step(model, selector, optimizer)
        before = weights_of(model.blocks)
        plain_loss(model, 5).backward()
        with pytest.raises(LayerSelectError, match=ORDER):
            optimizer.step()
        assert moved(before, model.blocks) == []
        selector.step()  # and the right order may follow
        optimizer.step()
        assert moved(before, model.blocks)


def test_where_nothing_is_governed_any_order_will_do():
    model, selector, optimizer = build("observe")
    with selector:
        for seed in range(3):
            plain_loss(model, seed).backward()
            optimizer.step()
            selector.step()
            optimizer.zero_grad()


def test_steps_without_gradients_are_let_through():
    model, selector, optimizer = build()
    with selector:
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        optimizer.step()
        scheduler.step()
        for seed in range(3):
            one_step(model, selector, optimizer, seed)
            optimizer.step()
        # Such a step does not use the selection up.
        plain_loss(model).backward()
        selector.step()
        kept = [p.grad for p in model.parameters()]
        optimizer.zero_grad()
        optimizer.step()
        for parameter, gradient in zip(model.parameters(), kept, strict=True):
            parameter.grad = gradient
        optimizer.step()


@pytest.mark.parametrize("keyword", [False, True])
def test_with_a_closure_the_order_is_looked_at_behind_it(keyword):
    model, selector, optimizer = build()

    def closure(steps, seed):
        optimizer.zero_grad()
        loss = plain_loss(model, seed)
        loss.backward()
        if steps:
            selector.step()
        return loss

    with selector:
        for seed in range(3):
            before = weights_of(model.blocks)
            inner = lambda seed=seed: closure(True, seed)  # noqa: E731
            assert (optimizer.step(closure=inner) if keyword else optimizer.step(inner)) is not None
            assert moved(before, model.blocks) == selector.selected()
        before = weights_of(model.blocks)
        with pytest.raises(LayerSelectError, match=ORDER):
            optimizer.step(lambda: closure(False, 9))
        assert moved(before, model.blocks) == []


def test_each_of_several_optimizers_steps_once_for_a_step_of_the_selector(caplog):
    model = plain(4)
    with FastSelector(model, "random:k=2", mode="gate") as selector:
        low = torch.optim.SGD(model.blocks[:2].parameters(), lr=0.1)
        high = torch.optim.SGD([*model.blocks[2:].parameters(), *model.head.parameters()], lr=0.1)
        outer = torch.optim.SGD(model.embed.parameters(), lr=0.1)
        selector.attach(low, high, outer)
        for seed in range(6):
            plain_loss(model, seed).backward()
            selector.step()
            low.step()
            if seed % 3 == 0:  # steps less often
                high.step()
            outer.step()
            outer.step()  # holds nothing that is selected
            model.zero_grad()
        plain_loss(model).backward()
        selector.step()
        low.step()
        plain_loss(model).backward()
        with pytest.raises(LayerSelectError, match=ORDER):
            low.step()
        high.step()
    assert not said(caplog, IDLE)


def test_a_step_inside_a_step_counts_once():
    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            loss = super().step(closure)
            return loss

    torch.optim.SGD(plain(1).parameters(), lr=0.1)  # torch patches a class when it first sees it
    model = plain(4)
    with FastSelector(model, "random:k=2", mode="gate") as selector:
        optimizer = Twice(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        for seed in range(3):
            one_step(model, selector, optimizer, seed)


def test_a_step_that_raised_leaves_no_trace():
    class Failing(torch.optim.SGD):
        fails = True

        def step(self, closure=None):
            if self.fails:
                raise RuntimeError("disk on fire")
            return super().step(closure)

    model = plain(4)
    with FastSelector(model, "random:k=2", mode="gate") as selector:
        optimizer = Failing(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        plain_loss(model).backward()
        selector.step()
        with pytest.raises(RuntimeError, match="disk on fire"):
            optimizer.step()
        optimizer.fails = False
        optimizer.step()
        plain_loss(model).backward()
        with pytest.raises(LayerSelectError, match="has not seen"):
            optimizer.step()


def test_a_second_step_with_the_same_gradients_uses_their_selection():
    model, selector, _ = build()
    with selector:
        plain_loss(model).backward()
        selector.step()
        later = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(later)  # between the two
        for _ in range(2):
            before = weights_of(model.blocks)
            later.step()
            assert moved(before, model.blocks) == selector.selected()
        for to_none in (True, False):
            later.zero_grad(set_to_none=to_none)
            plain_loss(model).backward()
            with pytest.raises(LayerSelectError, match=ORDER):
                later.step()


def test_a_step_inside_the_backward_pass_is_named():
    model = plain(2)
    with FastSelector(model, mode="gate") as selector:
        own = {p: torch.optim.SGD([p], lr=0.1) for p in selector.trainable_parameters()}
        for p in own:
            p.register_post_accumulate_grad_hook(lambda p: own[p].step())
        selector.attach(*own.values())
        with pytest.raises(LayerSelectError, match="SGD steps inside the backward pass.*build one optimizer"):
            plain_loss(model).backward()
