"""The watch over attached optimizers itself: what it leaves behind, in copies too, and groups that change."""

from __future__ import annotations

import copy

import torch
from torch import nn

from tests.helpers.models import plain_loss
from tests.helpers.watched import build, one_step


def test_nothing_is_left_on_an_optimizer_afterwards():
    model, selector, optimizer = build()
    one_step(model, selector, optimizer)
    selector.close()
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert not any(module._load_state_dict_post_hooks for module in model.modules())
    plain_loss(model).backward()
    optimizer.step()


def test_a_copy_of_the_model_has_nothing_of_the_watch_in_it():
    model, selector, optimizer = build()
    with selector:
        twin = copy.deepcopy(model)
        twin.load_state_dict(model.state_dict())
        plain_loss(model).backward()
        selector.step()
        optimizer.step()


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
