"""One pass of everything before anything is written."""

from __future__ import annotations

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.tasks.run.trial import try_passes
from torch import nn


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map, self.norm, self.drop = nn.Linear(4, 1), nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.map(self.drop(self.norm(x))).mean()


def _try(model, *, train=None, evaluate=None, lengths=(3, 9, 5, 1)) -> list:
    asked: list = []

    def run(numbers):
        asked.append((model.training, list(numbers)))
        return model(torch.randn(8, 4))

    try_passes(model, "m", lengths, train=train or run, evaluate=evaluate or run)
    return asked


def test_the_longest_and_the_shortest_are_trained_and_evaluated_and_nothing_stays():
    model = _Net().eval()
    model.map.weight.grad = torch.ones_like(model.map.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    assert _try(model) == [(True, [1, 3]), (False, [1, 3])]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.map.weight.grad, torch.ones_like(model.map.weight))
    assert model.map.bias.grad is None
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(module.training for module in model.modules())


def _raise(numbers):
    raise IndexError("index out of range in self")


def test_what_fails_is_named_with_the_pass_that_failed():
    with pytest.raises(LayerSelectError, match="m cannot be trained on this corpus: IndexError: index out of range"):
        _try(_Net(), train=_raise)
    with pytest.raises(LayerSelectError, match="m cannot be evaluated on this corpus: IndexError"):
        _try(_Net(), evaluate=_raise)


def test_only_the_longest_failing_says_to_shorten():
    model = _Net()

    def train(numbers):
        return _raise(numbers) if 1 in numbers else model(torch.randn(8, 4))

    with pytest.raises(LayerSelectError, match=r"on an example of 9 tokens .* but can on one of 1: lower --max-length"):
        _try(model, train=train)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_refused(value):
    model = _Net()
    with pytest.raises(LayerSelectError, match="the loss is -?(nan|inf) before the first step"):
        _try(model, train=lambda numbers: model(torch.randn(8, 4)) * value)


def test_one_example_is_enough():
    assert _try(_Net(), lengths=(4,)) == [(True, [0]), (False, [0])]
