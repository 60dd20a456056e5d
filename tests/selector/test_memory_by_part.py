"""Memory by part of the model, against sums by hand."""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector
from layerselect.selector.memory_by_part import PartMemory
from peft import LoraConfig, get_peft_model
from torch import nn

from tests.helpers.models import hugging_face, plain, plain_loss


def parts_of(selector: FastSelector) -> dict[str, PartMemory]:
    return {row.part: row for row in selector.memory_by_part()}


def numels(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize("on_freeze", ["keep", "reset"])
def test_the_layers_follow_the_selection_and_the_rest_does_not(on_freeze):
    model = plain()
    with FastSelector(model, "fixed:layers=[1,4]", mode="freeze", on_freeze=on_freeze, probe_every=0) as selector:
        optimizer = torch.optim.AdamW(selector.trainable_parameters())
        selector.attach(optimizer)
        for step in range(3):
            optimizer.zero_grad()
            plain_loss(model, step).backward()
            selector.step()
            optimizer.step()
        rows = parts_of(selector)
    assert list(rows) == ["layers", "embeddings", "head"]
    one, tensors = numels(model.blocks[0]), 6
    for part, module, count in (("embeddings", model.embed, 1), ("head", model.head, 2)):
        held = numels(module)
        assert rows[part] == PartMemory(part, held, 4 * held, 4 * held, 8 * held + 4 * count)
    assert rows["layers"].parameters == 6 * one and rows["layers"].gradients == 2 * 4 * one
    assert rows["layers"].optimizer == 2 * (8 * one + 4 * tensors)


@pytest.mark.parametrize("tied", [True, False])
def test_parts_of_a_model_of_transformers(tied):
    model = hugging_face("llama")
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    with FastSelector(model, "all", mode="observe") as selector:
        rows = parts_of(selector)
    expected = {"layers": numels(*model.model.layers), "embeddings": 64 * 16, "head": 64 * 16, "other": 16}
    if tied:
        del expected["head"]
    assert {part: row.parameters for part, row in rows.items()} == expected


def test_adapters_outside_of_layers_belong_to_what_they_are_put_on():
    config = LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head"])
    model = get_peft_model(hugging_face("llama"), config)
    with FastSelector(model, "all", mode="observe") as selector:
        rows = parts_of(selector)
    assert {part: row.parameters for part, row in rows.items()} == {
        "layers": 4 * 2 * (16 + 16),
        "embeddings": 2 * (64 + 16),
        "head": 64 * 16,
    }


def test_a_table_that_all_parameters_share_counts_once():
    class Shared(torch.optim.SGD):
        def __init__(self, parameters):
            super().__init__(parameters, lr=0.1)
            self.table = torch.zeros(256)
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p] = {"momentum": torch.zeros_like(p), "deep": [self.table, {"more": 3}]}

    model = plain()
    with FastSelector(model, "all", mode="observe") as selector:
        selector.attach(Shared(selector.trainable_parameters()))
        assert sum(row.optimizer for row in selector.memory_by_part()) == 4 * numels(model) + 4 * 256
