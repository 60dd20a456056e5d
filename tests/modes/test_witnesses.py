"""What tells that weights were moved: by the compiled core and without it, all weights and those of one holder."""

from __future__ import annotations

import math

import pytest
import torch
from layerselect import _backend
from layerselect.modes.witnesses import Witnesses
from torch import Tensor, nn

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.fixture(params=["compiled", "python"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, native) -> str:
    if request.param == "python":
        monkeypatch.setattr(_backend, "native_module", lambda: None)
    return request.param


def layers_of(*dtypes: torch.dtype) -> list[list[nn.Parameter]]:
    return [[nn.Parameter(torch.randn(3, 5).to(dtype)), nn.Parameter(torch.randn(2).to(dtype))] for dtype in dtypes]


def middle(parameter: nn.Parameter) -> Tensor:
    return parameter.data.view(-1)[(parameter.numel() - 1) // 2 :]


@pytest.mark.parametrize("layer", range(4))
def test_the_layer_that_moved_is_named(layer):
    layers = layers_of(*DTYPES)
    watch = Witnesses(layers)
    watch.note()
    middle(layers[layer][0])[0] += 1  # through .data, which no version counts
    assert watch.moved() == layer
    assert watch.moved() is None  # what was noted is forgotten


def test_of_several_the_first():
    layers = layers_of(*DTYPES)
    watch = Witnesses(layers, {id(layers[3][0]): 0, id(layers[1][1]): 1})
    watch.note()
    for layer in (3, 1, 2):
        middle(layers[layer][0])[0] += 1
    assert watch.moved() == 1


def test_a_holder_answers_for_its_own():
    layers = layers_of(torch.float32, torch.float32, torch.bfloat16)
    watch = Witnesses(layers, {id(p): number % 2 for number, layer in enumerate(layers) for p in layer})
    watch.note()
    middle(layers[1][0])[0] += 1
    assert watch.moved(0) is None
    assert watch.moved(1) == 1
    watch.note(1)
    middle(layers[2][0])[0] += 1
    assert watch.moved(1) is None
    assert watch.moved(0) is None  # it was not noted since it was looked at
    watch.note(0)
    assert watch.moved() is None


def test_values_count_and_nothing_else():
    layers = layers_of(torch.float32)
    middle(layers[0][0])[:2] = torch.tensor([math.nan, 0.0])
    watch = Witnesses(layers)
    watch.note()
    middle(layers[0][0])[:2] = torch.tensor([math.nan, -0.0])
    with torch.no_grad():
        layers[0][1].mul_(1.0)
    assert watch.moved() is None
    watch.note()
    middle(layers[0][0])[0] = 1.0  # a number where none was
    assert watch.moved() == 0


def test_memory_that_was_replaced_is_read_anew():
    layers = layers_of(torch.float32, torch.float32)
    watch = Witnesses(layers)
    watch.note()
    layers[0][0].data = layers[0][0].data.clone()
    assert watch.moved() is None
    watch.note()
    layers[1][0].data = layers[1][0].data + 1
    assert watch.moved() == 1
    watch.note()
    layers[1][0].data = layers[1][0].data.double()  # of another kind: nothing to compare
    assert watch.moved() is None


def test_forgotten():
    layers = layers_of(torch.float32)
    watch = Witnesses(layers)
    watch.note()
    watch.forget()
    middle(layers[0][0])[0] += 1
    assert watch.moved() is None
