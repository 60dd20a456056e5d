"""Ranks by layer under a budget of parameters."""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.helpers.models import plain, plain_loss


def _llama() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes))


def _gpt2() -> nn.Module:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=48, n_layer=4, n_head=4, n_positions=32))


def _train(model: nn.Module, selector: FastSelector, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(selector.trainable_parameters())
    selector.attach(optimizer)
    tokens = torch.randint(0, 64, (2, 8))
    for _ in range(steps):
        model(input_ids=tokens, labels=tokens).loss.backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("make", [_llama, _gpt2])
@pytest.mark.parametrize("by", ["scores", "frequency", "maps"])
def test_peft_takes_them_within_a_percent_of_the_budget_and_they_train(make, by):
    model = get_peft_model(make(), LoraConfig(r=4, target_modules="all-linear"))
    selector = FastSelector(model, "variance", mode="observe")
    _train(model, selector)
    whole = 16 * sum(p.numel() for name, p in model.named_parameters() if "lora_" in name) // 4
    found = selector.rank_pattern(0.5, by=by)
    selector.close()
    assert 0.99 * whole / 2 <= found.parameters <= whole / 2
    again = get_peft_model(make(), found.lora_config())
    adapters = [(name, p) for name, p in again.named_parameters() if "lora_" in name]
    assert sum(p.numel() for _, p in adapters) == found.parameters
    for name, p in adapters:
        if "lora_A" in name:
            plain_name = name.removeprefix("base_model.model.").partition(".lora_A")[0]
            assert len(p) == found.rank_pattern[plain_name.replace(".", "\\.")]
    trained = FastSelector(again, "all", mode="observe")
    _train(again, trained, 1)
    trained.close()


def test_only_maps_that_have_lora_get_ranks():
    model = get_peft_model(_llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    selector = FastSelector(model, "all", mode="observe")
    _train(model, selector, 1)
    found = selector.rank_pattern(5000)
    selector.close()
    assert {name.rpartition(".")[2] for name in found.target_modules} <= {"q_proj", "v_proj"}


def test_of_a_model_without_adapters_every_map_may_get_one():
    model = plain()
    selector = FastSelector(model, "all", mode="observe")
    plain_loss(model).backward()
    selector.step()
    found = selector.rank_pattern(4000)
    selector.close()
    assert {name.split(".")[0] for name in found.target_modules} == {"blocks"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"budget": 3}, "too small"),
        ({"budget": 0}, "budget=0"),
        ({"budget": True}, "budget=True"),
        ({"budget": float("inf")}, "budget=inf"),
        ({"budget": 4000, "most": "2"}, "most='2' is not a whole number"),
        ({"budget": 4000, "most": 0}, "most=0 is not a whole number"),
        ({"budget": 4000, "by": "luck"}, "by="),
    ],
)
def test_what_cannot_be_shared_out_is_one_sentence(arguments, words):
    model = plain()
    selector = FastSelector(model, "all", mode="observe")
    plain_loss(model).backward()
    selector.step()
    with pytest.raises(LayerSelectError, match=words):
        selector.rank_pattern(**arguments)
    selector.close()


def test_where_nothing_was_measured_nothing_is_worth_a_rank():
    selector = FastSelector(plain(), "all", mode="observe")
    with pytest.raises(LayerSelectError, match="nothing was measured"):
        selector.rank_pattern(4000)
    selector.close()
