"""Gradient checkpointing changes no gradient, of whatever kind it is and wherever the selection begins."""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector, Fixed, LayerSelectError
from layerselect.models.adapters import AdapterConfig, add_adapter
from layerselect.models.holding import Holding
from layerselect.models.load import load_classifier
from layerselect.models.recomputing import recompute_layers
from layerselect.tasks.intent.heads import ClassifierHead


def gradients(folder, kind, adapter, layers, dtype, mode="freeze"):
    torch.manual_seed(0)
    loaded = load_classifier(folder, ["a", "b"], multi_label=False, holding=Holding(dtype=dtype))
    model = add_adapter(loaded, AdapterConfig(adapter, rank=2, dropout=0.0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)  # else no gradient reaches the layers below
    recompute_layers(model, kind, loaded.source)
    passes = [0]
    block = loaded.model.get_submodule(loaded.layer_names[-1])
    block.register_forward_pre_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
    inputs = dict(loaded.tokenizer(["The river leaves", "A fox finds"], return_tensors="pt", padding=True))
    with FastSelector(model, Fixed(layers), mode=mode) as selector:
        for _ in range(2):  # the second one with the layers frozen
            model.zero_grad()
            ClassifierHead(multi_label=False).loss(model.train(), inputs, torch.tensor([0, 1])).backward()
            selector.step()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found, passes[0]


@pytest.mark.parametrize("adapter", ["lora", "none"])
@pytest.mark.parametrize("architecture", ["bert", "llama"])
@pytest.mark.parametrize("layers", [[0, 1, 2], [2]])
def test_gradients_keep_their_bits(request, architecture, adapter, layers):
    folder = request.getfixturevalue(f"{architecture}_folder")
    expected, passes = gradients(folder, "none", adapter, layers, "float32")
    assert passes == 2
    assert any(".2." in name for name in expected)
    for kind in ("nonreentrant", "reentrant"):
        found, passes = gradients(folder, kind, adapter, layers, "float32")
        assert found.keys() == expected.keys(), kind
        assert all(torch.equal(found[name], expected[name]) for name in expected), kind


@pytest.mark.parametrize("kind", ["nonreentrant", "reentrant"])
def test_recomputed_passes_have_the_precision_of_the_first(llama_folder, kind):
    expected, _ = gradients(llama_folder, "none", "lora", [0, 1, 2], "bfloat16")
    found, _ = gradients(llama_folder, kind, "lora", [0, 1, 2], "bfloat16")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["nonreentrant", "reentrant"])
def test_where_nothing_is_frozen_all_layers_have_gradients(llama_folder, kind):
    """The reentrant kind gives none where the input of a layer takes none."""
    expected, _ = gradients(llama_folder, "none", "lora", [0, 1, 2], "float32", mode="gate")
    found, _ = gradients(llama_folder, kind, "lora", [0, 1, 2], "float32", mode="gate")
    assert any(".0." in name for name in found) and found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_architecture_that_cannot_is_one_sentence():
    class Odd(torch.nn.Module):
        def activation_checkpointing_enable(self, **_):
            raise ValueError("Odd is not compatible with gradient checkpointing")

    with pytest.raises(LayerSelectError, match="--gradient-checkpointing reentrant: m .Odd. cannot compute its layers"):
        recompute_layers(Odd(), "reentrant", "m")
    recompute_layers(Odd(), "none", "m")
