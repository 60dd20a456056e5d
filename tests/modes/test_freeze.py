"""Mode ``freeze``: flags are off while a frozen layer computes, and the user's at any other time."""

from __future__ import annotations

import copy
import gc
import logging
import weakref

import pytest
import torch
from layerselect import FastSelector
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.helpers.models import plain, plain_loss


def flags(model: nn.Module) -> list[bool]:
    return [p.requires_grad for p in model.parameters()]


def with_gradients(model: nn.Module) -> list[int]:
    return [i for i, block in enumerate(model.blocks) if any(p.grad is not None for p in block.parameters())]


def test_flags_are_the_users_outside_of_a_pass_and_off_inside_of_frozen_layers():
    model = plain()
    inside: dict[int, bool] = {}
    for index, block in enumerate(model.blocks):
        block[1].register_forward_hook(lambda m, a, o, i=index: inside.__setitem__(i, m.weight.requires_grad))
    with FastSelector(model, "fixed:layers=[1,4]", mode="freeze"):
        assert all(flags(model))
        plain_loss(model).backward()
        assert inside == {i: i in (1, 4) for i in range(6)}
        assert with_gradients(model) == [1, 4]
        assert all(flags(model))
    plain_loss(model).backward()
    assert with_gradients(model) == list(range(6))


def test_a_pass_without_gradients_switches_nothing():
    model = plain()
    seen = []
    model.blocks[0][1].register_forward_hook(lambda m, a, o: seen.append(m.weight.requires_grad))
    with FastSelector(model, "fixed:layers=[5]", mode="freeze"), torch.no_grad():
        plain_loss(model)
    assert seen == [True]


def test_an_error_in_a_layer_leaves_its_flags_on():
    model = plain()

    def fail(module: nn.Module, args: object) -> None:
        raise ValueError("broken")

    with FastSelector(model, "fixed:layers=[5]", mode="freeze"):
        handle = model.blocks[2][1].register_forward_pre_hook(fail)
        with pytest.raises(ValueError, match="broken"):
            plain_loss(model)
        assert all(flags(model))
        handle.remove()
        plain_loss(model).backward()
        assert with_gradients(model) == [5]


@pytest.mark.parametrize("how", ["the same layer again", "close", "another selector", "dropped"])
def test_an_interruption_inside_a_layer_is_healed(how):
    """``KeyboardInterrupt`` passes the hooks that torch calls where an ``Exception`` passes."""
    model = plain()

    def interrupt(module: nn.Module, args: object) -> None:
        raise KeyboardInterrupt

    selector = FastSelector(model, "fixed:layers=[5]", mode="freeze")
    handle = model.blocks[2][1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        plain_loss(model)
    handle.remove()
    if how == "close":
        selector.close()
    elif how == "another selector":
        assert FastSelector(model, mode="freeze").num_layers == 6
    elif how == "dropped":
        del selector
        gc.collect()
    else:
        plain_loss(model)
    assert all(flags(model))


class Inside(nn.Module):
    """A block that checkpoints its inner part itself, so that hooks on the block do not run when it is computed
    again.
    """

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        self.reentrant = reentrant

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x).tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_others_switch_on_between_forward_and_backward_takes_no_gradient(reentrant):
    """As ``peft`` does for a reference pass: the recomputation must save what the forward pass saved."""
    torch.manual_seed(0)
    model = plain()
    model.blocks = nn.ModuleList(Inside(reentrant) for _ in range(6))
    model.blocks[0].requires_grad_(False)  # by the user, before
    with FastSelector(model, "fixed:layers=[1,4]", mode="freeze") as selector:
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        for seed in range(4):
            loss = plain_loss(model, seed)
            model.requires_grad_(False)
            with torch.no_grad():
                plain_loss(model, seed)
            model.requires_grad_(True)
            loss.backward()
            assert with_gradients(model) == [2, 5]
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
            assert not any(p.requires_grad for p in model.blocks[0].parameters())
    assert flags(model) == [not name.startswith("blocks.0.") for name, _ in model.named_parameters()]


class Parted(nn.Module):
    """A stack whose blocks are never called: their parts are, one by one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(64, 32), nn.Linear(32, 64)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32)) for _ in range(4))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for norm, linear in self.blocks:
            x = x + linear(norm(x))
        return self.head(x)


def test_a_model_that_calls_the_parts_of_its_blocks_is_frozen_all_the_same():
    model = Parted()
    with FastSelector(model, "fixed:layers=[3]", mode="freeze") as selector:
        for seed in range(3):
            plain_loss(model, seed).backward()
            took = with_gradients(model)
            selector.step()
            model.zero_grad()
        assert took == [3]


def test_a_training_that_goes_on_without_the_selector_trains_all_layers(caplog):
    """After an interruption the old selector may still be there, in a traceback of a notebook."""
    model = plain()
    selector = FastSelector(model, "fixed:layers=[5]", mode="freeze")
    plain_loss(model).backward()
    selector.step()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))
    took = []
    for seed in range(4):
        optimizer.zero_grad()
        plain_loss(model, seed).backward()
        took.append(with_gradients(model))
        optimizer.step()
    assert took[2:] == [list(range(6))] * 2
    assert sum("without selector.step()" in record.message for record in caplog.records) == 1
    selector.close()


def test_a_copy_is_free_and_has_the_users_flags():
    model = plain()
    model.blocks[0].requires_grad_(False)
    with FastSelector(model, "fixed:layers=[4]", mode="freeze"):  # layer 5 of the model
        other = copy.deepcopy(model)
    assert flags(other) == flags(model)
    plain_loss(other).backward()
    assert with_gradients(other) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("mode", ["gate", "freeze", "observe"])
def test_a_dropped_selector_lets_go_of_model_and_optimizer(mode):
    model = plain()

    def loop() -> tuple[weakref.ref, torch.optim.Optimizer]:
        selector = FastSelector(model, "topk:k=2", mode=mode)
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        for seed in range(2):
            plain_loss(model, seed).backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
        return weakref.ref(selector), optimizer

    selector, optimizer = loop()
    gc.collect()
    assert selector() is None
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    plain_loss(model).backward()
    assert with_gradients(model) == list(range(6))
    assert FastSelector(model, mode=mode).num_layers == 6


@pytest.mark.parametrize("second", ["gate", "freeze"])
def test_a_second_selector_closes_the_first_and_says_so(second, caplog):
    model = plain()
    first = FastSelector(model, "topk:k=2", mode="freeze")
    watcher = FastSelector(model, mode="observe")
    with caplog.at_level(logging.WARNING, "layerselect"):
        after = FastSelector(model, "variance", mode=second)
    assert [r.message for r in caplog.records if "still open" in r.message and "topk" in r.message]
    with pytest.raises(Exception, match="was closed"):
        first.step()
    assert after.num_layers == 6
    plain_loss(model).backward()
    after.step()
    watcher.step()
    after.close()
    watcher.close()
