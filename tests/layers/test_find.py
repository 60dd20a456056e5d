"""Discovery of layers."""

from __future__ import annotations

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.layers.find import clean_name, split_parameters
from torch import nn

from tests.helpers.models import HUGGING_FACE, hugging_face, plain, with_lora

EXPECTED = {
    "llama": [f"model.layers.{i}" for i in range(4)],
    "gemma3": [f"model.layers.{i}" for i in range(4)],
    "qwen": [f"model.layers.{i}" for i in range(4)],
    "qwen3": [f"model.layers.{i}" for i in range(4)],
    "gpt2": [f"transformer.h.{i}" for i in range(4)],
    "opt": [f"model.decoder.layers.{i}" for i in range(4)],
    "bert": [f"bert.encoder.layer.{i}" for i in range(4)],
    "t5": ["encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"],
}


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_every_family_has_its_layers_in_forward_order(name):
    model = hugging_face(name)
    found = split_parameters(model)
    assert found.names == EXPECTED[name]
    inside = {id(p) for layer in found.layers for _, p in layer}
    outside = {id(p) for _, p in found.outer}
    assert inside | outside == {id(p) for p in model.parameters()}
    assert not inside & outside
    for layer_name, layer in zip(found.names, found.layers, strict=True):
        assert layer
        assert all(parameter_name.startswith(layer_name + ".") for parameter_name, _ in layer)


def test_peft_model_has_only_adapters_in_its_layers():
    found = split_parameters(with_lora(hugging_face("llama")))
    assert len(found.names) == 4
    assert all("lora_" in name for layer in found.layers for name, _ in layer)
    assert [len(layer) for layer in found.layers] == [14] * 4
    assert found.outer == []


def test_layers_without_trainable_parameters_take_no_part():
    found = split_parameters(with_lora(hugging_face("llama"), layers_to_transform=[1, 3], target_modules=["q_proj"]))
    assert [name[-1] for name in found.names] == ["1", "3"]


def test_plain_stack_of_blocks_and_plain_stack_of_linear_maps():
    assert split_parameters(plain()).names == [f"blocks.{i}" for i in range(6)]
    assert split_parameters(nn.Sequential(*[nn.Linear(3, 3) for _ in range(4)])).names == ["0", "1", "2", "3"]


def test_lists_inside_a_block_belong_to_the_block():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(3))

    model = nn.Module()
    model.stack = nn.ModuleList(Block() for _ in range(2))
    assert split_parameters(model).names == ["stack.0", "stack.1"]


def test_heads_beside_the_stack_are_outer():
    model = plain()
    model.heads = nn.ModuleList([nn.Linear(16, 2), nn.Linear(16, 3)])
    found = split_parameters(model)
    assert found.names == [f"blocks.{i}" for i in range(6)]
    assert {"heads.0.weight", "heads.1.bias"} <= {name for name, _ in found.outer}


def test_a_parameter_shared_by_layers_is_outer():
    model = plain()
    model.blocks[4][1].weight = model.blocks[2][1].weight
    found = split_parameters(model)
    assert "blocks.2.1.weight" in {name for name, _ in found.outer}
    assert all("1.weight" not in name for layer in (found.layers[2], found.layers[4]) for name, _ in layer)


def test_a_module_shared_by_layers_is_outer_and_a_layer_used_twice_is_one_layer():
    model = plain()
    model.blocks[4][3] = model.blocks[2][3]
    assert {name for name, _ in split_parameters(model).outer} >= {"blocks.2.3.weight", "blocks.2.3.bias"}
    block = nn.Sequential(nn.Linear(2, 2))
    shared = nn.Module()
    shared.stack = nn.ModuleList([block, block, nn.Sequential(nn.Linear(2, 2))])
    assert split_parameters(shared).names == ["stack.0", "stack.2"]


@pytest.mark.parametrize(
    "layers",
    [
        "model.layers",
        "base_model.model.model.layers",
        r".*\.layers\.\d+",
        [f"model.layers.{i}" for i in range(4)],
    ],
)
def test_explicit_layers(layers):
    model = with_lora(hugging_face("llama"))
    assert split_parameters(model, layers).names == [f"base_model.model.model.layers.{i}" for i in range(4)]


def test_explicit_modules_keep_the_given_order():
    model = plain()
    assert split_parameters(model, [model.blocks[3], model.blocks[1]]).names == ["blocks.3", "blocks.1"]


def test_wrappers_do_not_show_in_names():
    compiled = torch.compile(plain())
    assert split_parameters(compiled).names == [f"blocks.{i}" for i in range(6)]
    assert clean_name("module._orig_mod.model.layers.0.weight") == "model.layers.0.weight"
    assert clean_name("layers.0._checkpoint_wrapped_module.weight") == "layers.0.weight"
    assert clean_name("encoder.module.layer.1") == "encoder.layer.1"


@pytest.mark.parametrize(
    ("build", "layers", "message"),
    [
        (lambda: nn.Linear(2, 2), None, "no stack of repeated blocks"),
        (lambda: plain().requires_grad_(False), None, "hold no trainable parameter"),
        (plain, "nowhere.at.all", r"matches no module .*'blocks'"),
        (plain, "(", "neither a path in the model nor a regular expression"),
        (plain, ["blocks.0", "blocks.9"], r"'blocks.9', which is no module .*'blocks'"),
        (plain, [], "is not a path, a regular expression or a list"),
        (plain, [nn.Linear(2, 2)], "not a module of PlainStack"),
        (plain, "blocks.0.2", "no trainable parameter in the layer .blocks.0.2"),
    ],
)
def test_errors_say_what_where_and_what_to_do(build, layers, message):
    with pytest.raises(LayerSelectError, match=message):
        split_parameters(build(), layers)
