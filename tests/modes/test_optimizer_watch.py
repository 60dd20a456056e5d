"""What goes on around ``optimizer.step()``: the wrong order is refused, idle optimizers and weights moved elsewhere are
said.
"""

from __future__ import annotations

import copy

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.core import step as core_module
from torch import nn

from tests.helpers.models import plain, plain_loss
from tests.helpers.wrappers import Lookahead, SharpnessAwareInTwoCalls, moved, weights_of

ORDER = "SGD.step.. was called with gradients that selector.step.. has not seen.*before optimizer.step"
IDLE = "no attached optimizer (SGD) has stepped in between"
MOVED = "were moved outside of the attached optimizer's step()"


def build(mode="gate", rule="random:k=2", layers=4, **settings):
    model = plain(layers)
    selector = FastSelector(model, rule, mode=mode, seed=1, **settings)
    optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    return model, selector, optimizer


def one_step(model, selector, optimizer, seed=0):
    plain_loss(model, seed).backward()
    selector.step()
    optimizer.step()
    optimizer.zero_grad()


def said(caplog, message):
    return [record for record in caplog.records if message in record.getMessage()]


# ------------------------------------------------------------------ order


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


def test_nothing_is_left_on_an_optimizer_afterwards():
    model, selector, optimizer = build()
    one_step(model, selector, optimizer)
    selector.close()
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert not any(module._load_state_dict_post_hooks for module in model.modules())
    plain_loss(model).backward()
    optimizer.step()


# ------------------------------------------------------------------ optimizers that do not step


def test_an_optimizer_that_does_not_step_is_said_in_the_second_step(caplog):
    model, selector, _ = build()
    with selector:
        for seed in range(4):
            assert len(said(caplog, IDLE)) == (seed >= 2)
            plain_loss(model, seed).backward()
            selector.step()
    assert "if accelerator.sync_gradients: selector.step()" in said(caplog, IDLE)[0].getMessage()


def test_accumulation_as_accelerate_does_it(caplog):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    for guarded in (True, False):
        model = plain(4)
        with FastSelector(model, "random:k=2", mode="gate") as selector:
            optimizer = accelerator.prepare(torch.optim.SGD(selector.trainable_parameters(), lr=0.1))
            selector.attach(optimizer)
            for seed in range(6):
                with accelerator.accumulate(model):
                    accelerator.backward(plain_loss(model, seed))
                    if accelerator.sync_gradients or not guarded:
                        selector.step()
                    optimizer.step()
                    optimizer.zero_grad()
        assert len(said(caplog, IDLE)) == (not guarded)


def test_an_optimizer_that_was_rebuilt_is_said(caplog):
    model, selector, _ = build()
    with selector:
        rebuilt = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        for seed in range(3):
            one_step(model, selector, rebuilt, seed)
    assert len(said(caplog, IDLE)) == 1


def test_an_ordinary_run_is_not_spoken_of(caplog):
    for mode in ("gate", "freeze", "observe"):
        model, selector, optimizer = build(mode)
        with selector:
            for seed in range(5):
                one_step(model, selector, optimizer, seed)
    assert not caplog.records


class Infinite(nn.Module):
    """Makes gradients that are not finite in the steps in which it is told to."""

    def __init__(self):
        super().__init__()
        self.now = False

    def forward(self, loss):
        return loss * float("inf") if self.now else loss


@pytest.mark.parametrize("skipped", [(1, 2, 3), ()])
def test_a_step_that_a_scaler_skips_is_not_missed(skipped, caplog):
    model, selector, optimizer = build()
    spoil, scaler = Infinite(), torch.amp.GradScaler("cpu", init_scale=2.0)
    with selector:
        for seed in range(5):
            spoil.now = seed in skipped
            scaler.scale(spoil(plain_loss(model, seed))).backward()
            selector.step(scaler)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert not said(caplog, IDLE)


def test_a_scaler_that_is_never_asked_skips_nothing(caplog):
    model, selector, optimizer = build()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    with selector:
        for seed in range(4):
            scaler.scale(plain_loss(model, seed)).backward()
            selector.step(scaler)
            if seed % 2:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
    assert len(said(caplog, IDLE)) == 1


# ------------------------------------------------------------------ weights moved elsewhere


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_weights_that_a_wrapper_moves_are_said(mode, data, caplog):
    model, selector, optimizer = build(mode)
    wrapper = Lookahead(optimizer, k=2, data=data)
    with selector:
        for seed in range(6):
            assert bool(said(caplog, MOVED)) == (seed > 2)
            one_step(model, selector, wrapper, seed)
    (record,) = said(caplog, MOVED)
    assert "'blocks." in record.getMessage() and "Lookahead" in record.getMessage()


@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_sharpness_in_two_calls_around_the_attached_one(mode, caplog):
    """In mode freeze what was not selected keeps the perturbation."""
    model = plain(4)
    with FastSelector(model, "topk:k=2", mode=mode) as selector:
        optimizer = SharpnessAwareInTwoCalls(selector.trainable_parameters(), torch.optim.SGD, lr=0.1)
        selector.attach(optimizer.base_optimizer)
        for seed in range(3):
            plain_loss(model, seed).backward()
            optimizer.first_step()
            plain_loss(model, seed).backward()
            selector.step()
            optimizer.second_step()
            assert len(said(caplog, MOVED)) == 1


def test_a_second_optimizer_that_was_not_attached_is_said(caplog):
    model, selector, optimizer = build()
    stranger = torch.optim.SGD(model.blocks[1].parameters(), lr=0.1)
    with selector:
        for seed in range(3):
            plain_loss(model, seed).backward()
            selector.step()
            optimizer.step()
            stranger.step()
            optimizer.zero_grad()
    assert "layer 'blocks.1'" in said(caplog, MOVED)[0].getMessage()


def swapped_average(model, step):
    kept = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
        for name, p in model.named_parameters():
            p.copy_(kept[name])


def loaded(model, step):
    model.load_state_dict({name: 0.9 * value for name, value in model.state_dict().items()})


def block_loaded(model, step):
    model.blocks[1].load_state_dict({k: 0.9 * v for k, v in model.blocks[1].state_dict().items()})


def converted(model, step):
    model.to(torch.float64 if step % 2 else torch.float32)


def cloned(model, step):
    for p in model.parameters():
        p.data = p.data.clone()


@pytest.mark.parametrize("does", [swapped_average, loaded, block_loaded, converted, cloned])
def test_what_may_be_done_between_steps_is_not_spoken_of(does, caplog):
    model, selector, optimizer = build()
    with selector:
        for seed in range(4):
            plain_loss(model, seed).backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
            does(model, seed)
    assert not said(caplog, MOVED)


def test_not_a_number_that_stays_one_has_not_moved(caplog):
    model, selector, optimizer = build()
    with selector:
        with torch.no_grad():
            model.blocks[1][1].weight.fill_(float("nan"))
        for _ in range(3):
            optimizer.step()
    assert not said(caplog, MOVED)


def test_a_copy_of_the_model_has_nothing_of_the_watch_in_it():
    model, selector, optimizer = build()
    with selector:
        twin = copy.deepcopy(model)
        twin.load_state_dict(model.state_dict())
        plain_loss(model).backward()
        selector.step()
        optimizer.step()


# ------------------------------------------------------------------ groups


def test_parameters_that_enter_or_leave_an_optimizer_are_noticed():
    model, selector, optimizer = build()
    with selector:
        watch = selector._attachment.watch
        assert not watch.groups_changed
        optimizer.load_state_dict(optimizer.state_dict())
        one_step(model, selector, optimizer)
        assert not watch.groups_changed
        late = nn.Parameter(torch.zeros(3))
        optimizer.add_param_group({"params": [late]})
        assert watch.groups_changed
        watch.accept_groups()
        assert not watch.groups_changed
        optimizer.param_groups[-1]["params"][0] = nn.Parameter(torch.zeros(3))  # as many, another one
        assert watch.groups_changed
        watch.accept_groups()
        del optimizer.param_groups[-1]
        assert watch.groups_changed
