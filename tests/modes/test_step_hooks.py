"""One pair of hooks around an optimizer's steps: who is told, in which order, and of which steps."""

from __future__ import annotations

import pytest
import torch
from layerselect.modes.step_hooks import StepHooks
from torch import nn


class Nested(torch.optim.SGD):
    """Its step makes the step that it is built upon, and others if it is told to."""

    inner = 1
    fails: int | None = None

    def step(self, closure=None):
        for index in range(self.inner):
            try:
                if index == self.fails:
                    super().step(lambda: 1 / 0)
                super().step(closure)
            except ZeroDivisionError:
                pass


torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)  # torch patches a class when it first sees it


def noted(optimizer):
    hooks, told = StepHooks(optimizer), []
    for name in ("first", "second"):
        hooks.add(
            lambda closure, name=name: told.append(f"{name} before") or closure, lambda name=name: told.append(name)
        )
    return hooks, told


ONE = ["first before", "second before", "second", "first"]


@pytest.mark.parametrize(("inner", "fails"), [(1, None), (3, None), (2, 0), (3, 1)])
def test_a_step_is_told_once_whatever_runs_inside_it(inner, fails):
    optimizer = Nested(nn.Linear(1, 1).parameters(), lr=0.1)
    optimizer.inner, optimizer.fails = inner, fails
    _, told = noted(optimizer)
    for _ in range(2):
        optimizer.step()
    assert told == 2 * ONE


def test_a_step_that_raised_has_no_end_and_the_next_is_a_step_of_its_own():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    hooks, told = noted(optimizer)

    def closure():
        assert hooks.runs()
        raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            optimizer.step(closure)
        assert not hooks.runs()
    optimizer.step()
    assert told == 2 * ONE[:2] + ONE


@pytest.mark.parametrize("keyword", [False, True])
def test_closures_are_handed_on(keyword):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    hooks = StepHooks(optimizer)
    for addend in (1, 10):
        hooks.add(lambda inner, addend=addend: None if inner is None else lambda: inner() + addend, lambda: None)
    assert optimizer.step() is None
    assert (optimizer.step(closure=lambda: 100) if keyword else optimizer.step(lambda: 100)) == 111


def test_what_was_removed_is_told_nothing_and_hooks_go_with_the_last():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    hooks, told = StepHooks(optimizer), []
    pairs = [(lambda closure: told.append("a") or closure, lambda: None), (lambda closure: closure, lambda: None)]
    for pair in pairs:
        hooks.add(*pair)
    hooks.remove(*pairs[0])
    optimizer.step()
    assert not told and len(optimizer._optimizer_step_pre_hooks) == len(optimizer._optimizer_step_post_hooks) == 1
    hooks.remove(*pairs[1])
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_removed_in_the_middle_of_a_step():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    hooks, ends = StepHooks(optimizer), []
    pair = (lambda closure: closure, lambda: ends.append(1))
    hooks.add(*pair)
    optimizer.step(lambda: hooks.remove(*pair))
    assert not ends
    hooks.add(*pair)
    optimizer.step()
    assert ends == [1]
