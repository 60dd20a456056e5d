"""Copies of the parts around a model: its optimizer, its selector, its rule, our hooks."""

from __future__ import annotations

import copy

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.layers.model_hooks import ModelHook
from torch import nn

from tests.helpers.models import plain, plain_loss
from tests.helpers.selected import a_rule, same_state, train
from tests.selector.copies import COPIES, RULES, a_model, flags, pickled, selected_model


class KeepsAll(torch.optim.SGD):
    """Copies with everything that it has, hooks included."""

    def __getstate__(self):
        return dict(vars(self))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, KeepsAll])
@pytest.mark.parametrize("make", [copy.deepcopy, pickled])
@pytest.mark.parametrize("options", [{"mode": "gate"}, {"mode": "freeze", "on_freeze": "reset"}])
def test_the_copy_of_an_optimizer_is_free_of_the_gate(options, make, kind):
    model = plain()
    selector = FastSelector(model, "fixed:layers=[1]", **options)
    optimizer = kind(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    train(model, selector, optimizer, range(2))
    copied, theirs = make((model, optimizer))
    before = copy.deepcopy(copied)
    plain_loss(copied, 2).backward()
    theirs.step()
    moved = [not torch.equal(a, b) for a, b in zip(copied.parameters(), before.parameters(), strict=True)]
    assert all(moved)
    still = copy.deepcopy(model.blocks[0].state_dict())
    train(model, selector, optimizer, range(2, 3))  # and the original is gated as before
    assert same_state(dict(model.blocks[0].state_dict()), dict(still))


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickled])
def test_the_copy_of_a_selector_says_what_it_is(make):
    model, selector, _ = selected_model("variance", "gate")
    copied = make(selector)
    for use in (lambda: copied.step(), lambda: copied.scores, lambda: copied.state_dict()):
        with pytest.raises(LayerSelectError, match="copy of a selector.*build a FastSelector for the copied model"):
            use()
    with copied:
        copied.close()
    plain_loss(model).backward()
    selector.step()  # the original is open


def test_a_model_that_keeps_its_selector_is_copied():
    model, selector, optimizer = selected_model("cosine", "gate")
    model.selector = selector
    train(model, selector, optimizer, range(2))
    copied = copy.deepcopy(model)
    plain_loss(copied).backward()
    with FastSelector(copied, a_rule("cosine", copied), mode="gate") as own:
        own.load_state_dict(selector.state_dict())  # as the sentence says
        assert own.steps == 2


@pytest.mark.parametrize("make", [copy.deepcopy, pickled])
@pytest.mark.parametrize("name", [rule for rule in RULES if rule != "ist"])
def test_a_rule_in_use_is_copied_for_another_model(name, make):
    model, selector, optimizer = selected_model(name, "gate")
    train(model, selector, optimizer, range(3))
    rule = make(selector.rule)
    assert type(rule) is type(selector.rule) and rule.config() == selector.rule.config()
    other = a_model("plain")
    with FastSelector(other, rule, mode="gate") as second:
        second_optimizer = torch.optim.AdamW(second.trainable_parameters(), lr=1e-2)
        second.attach(second_optimizer)
        train(other, second, second_optimizer, range(3))
    train(model, selector, optimizer, range(3, 5))


def test_a_hook_calls_its_function_and_its_copy_calls_nothing():
    module, seen = nn.Linear(2, 2), []
    module.register_forward_hook(ModelHook(lambda *args, **kwargs: seen.append(1)), with_kwargs=True)
    module.register_forward_pre_hook(ModelHook(lambda *args: seen.append(2)))
    module.register_full_backward_hook(ModelHook(lambda *args: seen.append(3)))
    for make in (copy.deepcopy, pickled, lambda m: copy.deepcopy(copy.deepcopy(m))):
        make(module)(torch.ones(1, 2)).sum().backward()
        assert seen == []
    module(torch.ones(1, 2)).sum().backward()
    assert seen == [2, 1, 3]


def test_what_is_lent_is_given_back_in_the_copy():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].bias.requires_grad_(False)
    lent = [module[0].weight, module[1].weight]
    module[0].register_forward_hook(ModelHook(lambda *args: None, lambda: lent))
    for parameter in lent:
        parameter.requires_grad_(False)
    for make in COPIES.values():
        assert flags(make(module)) == [True, False, True, True]
    assert flags(module) == [False, False, False, True]
