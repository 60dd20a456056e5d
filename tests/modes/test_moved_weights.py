"""Weights that are moved outside of the attached optimizers' steps are said, and what may be done is not."""

from __future__ import annotations

import copy

import pytest
import torch
from layerselect import FastSelector

from tests.helpers.models import plain, plain_loss
from tests.helpers.watched import build, one_step, said
from tests.helpers.wrappers import Lookahead, SharpnessAwareInTwoCalls

MOVED = "were moved outside of the attached optimizer's step()"


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
