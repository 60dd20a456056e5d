"""Discovery of layers by structure alone: nested containers, odd ones, and what is said where structure does not
tell.
"""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.layers.find import layer_modules, split_parameters
from layerselect.layers.stacks import called_modules
from torch import nn

from tests.helpers.models import plain

L, S = nn.ModuleList, nn.Sequential


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))


class Other(Block):
    pass


class Stage(nn.ModuleList):
    """A list that can be called."""

    def forward(self, x):
        for block in self:
            x = block(x)
        return x


class ConvNorm(nn.Sequential):
    pass


def linear():
    return nn.Linear(8, 8)


def holding(**parts):
    model = nn.Module()
    for name, part in parts.items():
        setattr(model, name, part)
    return model


def blocks(count):
    return [Block() for _ in range(count)]


CASES = {
    "a list of lists": (
        lambda: holding(stages=L([L(blocks(2)), L(blocks(1))]), head=linear()),
        ["stages.0.0", "stages.0.1", "stages.1.0"],
    ),
    "three levels": (
        lambda: holding(stages=L([L([L(blocks(2))]), L([L(blocks(1)), L(blocks(1))])])),
        ["stages.0.0.0", "stages.0.0.1", "stages.1.0.0", "stages.1.1.0"],
    ),
    "stages and blocks in one list": (
        lambda: holding(stages=L([L(blocks(2)), Block(), L(blocks(1))])),
        ["stages.0.0", "stages.0.1", "stages.1", "stages.2.0"],
    ),
    "what stands between the stages": (
        lambda: holding(patches=L([S(linear(), nn.LayerNorm(8)) for _ in range(2)]), stages=L([L(blocks(2)), L(blocks(1))])),
        ["stages.0.0", "stages.0.1", "stages.1.0"],
    ),
    "a decoder behind nested stages": (
        lambda: holding(encoder=holding(stages=L([L(blocks(1)), L(blocks(1))])), decoder=holding(layers=L(blocks(2)))),
        ["encoder.stages.0.0", "encoder.stages.1.0", "decoder.layers.0", "decoder.layers.1"],
    ),
    "sub-layers as lists": (
        lambda: holding(layers=L([L([nn.LayerNorm(8), Block(), Other()]) for _ in range(2)])),
        ["layers.0.1", "layers.0.2", "layers.1.1", "layers.1.2"],
    ),
    "a block written as a list": (lambda: holding(layers=L([L([linear(), linear()]) for _ in range(3)])),
        ["layers.0", "layers.1", "layers.2"]),
    "a block written as a dict": (
        lambda: holding(layers=L([nn.ModuleDict({"a": Block(), "b": Other()}) for _ in range(2)])), ["layers.0", "layers.1"]),
    "stages that can be called": (lambda: holding(stages=L([Stage(blocks(2)), Stage(blocks(1))])), ["stages.0", "stages.1"]),
    "stages with a forward pass": (
        lambda: holding(stages=L([S(*blocks(2)), S(*blocks(1))])), ["stages.0", "stages.1"]),
    "a sequence of sequences": (
        lambda: S(
            ConvNorm(linear(), nn.LayerNorm(8)), S(*blocks(3)), S(nn.LayerNorm(8), linear()), S(*blocks(1)),
            S(nn.LayerNorm(8), linear()), S(*blocks(2)),
        ),
        ["1.0", "1.1", "1.2", "3.0", "5.0", "5.1"],
    ),
    "a sequence of sequences of two classes": (
        lambda: S(ConvNorm(linear()), S(Other(), Other()), S(Other()), S(*blocks(3)), ConvNorm(linear())),
        ["1.0", "1.1", "2.0", "3.0", "3.1", "3.2"],
    ),
    "sequences beside each other": (
        lambda: holding(stem=linear(), layer1=S(*blocks(2)), layer2=S(*blocks(3)), fc=linear()),
        ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2"],
    ),
    "a sequence of blocks between an embedding and a head": (
        lambda: S(nn.Embedding(4, 8), *blocks(3), linear()), ["1", "2", "3"]),
    "timm": (lambda: holding(patch_embed=S(linear()), blocks=S(*blocks(3)), head=linear()), [f"blocks.{i}" for i in range(3)]),
    "stacks in a dict": (
        lambda: holding(stacks=nn.ModuleDict({"encoder": L(blocks(2)), "decoder": L(blocks(2))})),
        ["stacks.encoder.0", "stacks.encoder.1", "stacks.decoder.0", "stacks.decoder.1"],
    ),
    "recurrent layers in a list": (lambda: holding(layers=L([nn.LSTM(8, 8) for _ in range(3)])), [f"layers.{i}" for i in range(3)]),
    "experts": (
        lambda: holding(layers=L([holding(router=linear(), experts=L(blocks(3))) for _ in range(2)])), ["layers.0", "layers.1"]),
    "experts as lists of lists": (
        lambda: holding(layers=L([holding(experts=L([L(blocks(2)), L(blocks(2))])) for _ in range(2)])), ["layers.0", "layers.1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_structure_shows_the_layers(name):
    build, expected = CASES[name]
    model = build()
    found = split_parameters(model)
    assert found.names == expected
    assert all(found.layers)
    everything = [id(p) for layer in found.layers for _, p in layer] + [id(p) for _, p in found.outer]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())
    assert [id(m) for m in layer_modules(model)] == [id(m) for m in found.modules]


def test_a_partly_frozen_list_of_lists():
    model = holding(stages=L([L(blocks(2)), L(blocks(2))]))
    model.stages[0].requires_grad_(False)
    assert split_parameters(model).names == ["stages.1.0", "stages.1.1"]


@pytest.mark.parametrize("layers", ["stages", r"stages\.\d\.\d", ["stages.0.0", "stages.0.1", "stages.1.0"]])
def test_blocks_of_nested_lists_can_be_named(layers):
    model = holding(stages=L([L(blocks(2)), L(blocks(1))]))
    assert split_parameters(model, layers).names == ["stages.0.0", "stages.0.1", "stages.1.0"]
    assert split_parameters(model, "stages.0").names == ["stages.0.0", "stages.0.1"]
    assert split_parameters(model, ["stages.0", "stages.1"]).names == ["stages.0", "stages.1"]


def test_a_dict_of_blocks_can_be_named():
    model = holding(parts=nn.ModuleDict({"first": Block(), "second": Block()}))
    assert split_parameters(model, "parts").names == ["parts.first", "parts.second"]


def test_what_is_called_when_a_block_runs():
    block = Block()
    assert called_modules(block) == [block]
    inner = [Block(), linear()]
    assert called_modules(L([L([inner[0]]), nn.ModuleDict({"b": inner[1]})])) == inner


class Held:
    """Holds a module, and is none: as ``SetFitModel``, a pipeline or a ``Trainer``."""

    def __init__(self, **parts):
        self.__dict__.update(parts)


def shared_parts():
    part = linear()
    return holding(layers=L([S(S(part)), S(S(part))]))


@pytest.mark.parametrize(
    ("build", "layers", "message"),
    [
        (lambda: Held(model_body=plain(), model_head=linear()), None, r"a Held, .*: pass its \.model_body \(a "
                                                                      r"PlainStack\)$"),
        (lambda: Held(a=linear(), b=linear()), None, r"pass its \.a \(a Linear\) or its \.b \(a Linear\)"),
        (lambda: Held(), None, "no torch.nn.Module: pass the module whose parameters are trained"),
        (lambda: [linear()], None, "the model is a list"),
        (lambda: None, None, "the model is a NoneType"),
        (lambda: nn.Linear, None, "the class Linear: pass an object of it"),
        (lambda: holding(b1=Block(), b2=Block(), b3=Block(), head=linear()), None,
         r"seen were 3 modules of class Block: pass layers=\['b1', 'b2', 'b3'\]"),
        (lambda: holding(parts=nn.ModuleDict({"x": Block(), "y": Block()})), None, r"pass layers=\['parts.x', "
                                                                                   r"'parts.y'\]"),
        (lambda: holding(fc1=linear(), fc2=linear()), None, r"layers=\['fc1', 'fc2'\]"),
        (lambda: holding(lstm=nn.LSTM(8, 8, num_layers=3), head=linear()), None,
         r"its LSTM 'lstm' computes 3 layers in one call.*ModuleList of 3 LSTMs"),
        (lambda: nn.GRU(8, 8, num_layers=2), None, r"its GRU '\(the model\)' computes 2 layers"),
        (lambda: holding(lstm=nn.LSTM(8, 8, num_layers=2), head=S(linear(), nn.ReLU(), linear())), None, "its LSTM "
                                                                                                         "'lstm'"),
        (lambda: holding(body=L(blocks(2)).requires_grad_(False), head=S(linear(), nn.ReLU(), linear())), None,
         r"\('body'\) hold no trainable parameter, and what trains is elsewhere \('head.0.weight'.*layers="),
        (lambda: plain().requires_grad_(False), None, r"\('blocks'\) hold no trainable parameter, and no parameter "
                                                      r"of the model"),
        (shared_parts, None, r"trainable parameters in the 2 layers .* are shared \('layers.0.0.0.weight'.*layers="),
        (plain, ["blocks.0", "blocks.0.1"], "'blocks.0.1' and 'blocks.0', one inside the other"),
        (lambda: holding(body=L(blocks(2)).requires_grad_(False), head=linear()), "body",
         r"no trainable parameter in the 2 layers .*elsewhere \('head.weight'"),
        (lambda: holding(body=L(blocks(2)).requires_grad_(False), head=linear()), "nowhere", "what would match: "
                                                                                             "'body'"),
        (lambda: S(*blocks(2)), "nowhere", r"what would match: \['0', '1'\]"),
    ],
)  # fmt: skip
def test_where_structure_does_not_tell(build, layers, message):
    with pytest.raises(LayerSelectError, match=message) as error:
        FastSelector(build(), layers=layers)
    assert "\n" not in str(error.value)


def test_what_is_proposed_works():
    model = holding(b1=Block(), b2=Block(), head=linear())
    assert split_parameters(model, ["b1", "b2"]).names == ["b1", "b2"]
    assert split_parameters(holding(f1=linear(), f2=linear()), ["f1", "f2"]).names == ["f1", "f2"]
