"""Backward passes that are compiled: the selector measures behind them, or says that it cannot."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo
from layerselect import FastSelector, LayerSelectError
from layerselect.modes.compiled import compiled_autograd_on
from torch import nn

from tests.helpers.models import plain, plain_loss

BACKEND = "eager"


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def optimizer_for(selector: FastSelector) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    return optimizer


def assert_same(model: nn.Module, expected: nn.Module) -> None:
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def compiled_autograd():
    return torch._dynamo.compiled_autograd._enable(torch.compile(backend=BACKEND))


class Tiny(nn.Module):
    """Two layers: compiled autograd takes its time with each operation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, hidden):
        for block in self.blocks:
            hidden = block(hidden)
        return hidden.square().mean()


def test_what_shows_that_compiled_autograd_is_on():
    assert not compiled_autograd_on()
    with compiled_autograd():
        assert compiled_autograd_on()
    with torch._dynamo.config.patch(compiled_autograd=True):
        assert compiled_autograd_on()
    assert not compiled_autograd_on()


def test_capture_auto_is_step_and_the_scores_are_the_same():
    model, twin, given = Tiny(), Tiny(), torch.ones(2, 4)
    with compiled_autograd():
        selector = FastSelector(model, "topk:k=1", mode="gate")
        assert selector.capture == "step"
        optimizer = optimizer_for(selector)
        model(given).backward()
        selector.step()
        optimizer.step()
    with FastSelector(twin, "topk:k=1", mode="gate") as expected:
        assert expected.capture == "backward"
        optimizer = optimizer_for(expected)
        twin(given).backward()
        expected.step()
        optimizer.step()
        torch.testing.assert_close(selector.scores, expected.scores)
        assert_same(model, twin)


def test_hooks_are_refused_where_compiled_autograd_is_on():
    with (
        torch._dynamo.config.patch(compiled_autograd=True),
        pytest.raises(LayerSelectError, match="compiled autograd cannot run hooks in C.*: use capture='step'"),
    ):
        FastSelector(plain(), capture="backward")


def test_switched_on_later():
    model = plain()
    with FastSelector(model, mode="gate") as selector:
        plain_loss(model).backward()
        with (
            torch._dynamo.config.patch(compiled_autograd=True),
            pytest.raises(LayerSelectError, match="build the selector with capture='step'"),
        ):
            selector.step()
        selector.step()


def test_switched_on_for_a_backward_pass_alone(native):
    """Nothing of it can be seen before or after; the hook itself says what to do."""
    model = Tiny()
    with FastSelector(model, "topk:k=1", mode="gate", backend="native"):
        loss = model(torch.ones(2, 4))
        with compiled_autograd(), pytest.raises(NotImplementedError, match="build the selector with capture='step'"):
            loss.backward()
