"""Those who read every gradient: AdaLoRA after the step, Grokfast's filter and loggers between measuring and
stepping.
"""

from __future__ import annotations

import math

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from torch import nn

from tests.helpers.models import plain, plain_loss


def gradfilter_ema(m: nn.Module, grads: dict | None = None, alpha: float = 0.98, lamb: float = 2.0) -> dict:
    """As Grokfast's authors publish it (Lee et al. 2024, arXiv 2405.20233)."""
    if grads is None:
        grads = {n: p.grad.data.detach() for n, p in m.named_parameters() if p.requires_grad}
    for n, p in m.named_parameters():
        if p.requires_grad:
            grads[n] = grads[n] * alpha + p.grad.data.detach() * (1 - alpha)
            p.grad.data = p.grad.data + grads[n] * lamb
    return grads


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("spoiled", [False, True])
def test_grokfast_in_mode_gate(when, spoiled):
    model = plain()
    with FastSelector(model, "topk:k=2", mode="gate") as selector:
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
        selector.attach(optimizer)
        grads = None
        for step in range(3):
            bad = spoiled and step == 2
            handle = model.blocks[2][1].weight.register_hook(lambda g: g * math.nan) if bad else None
            plain_loss(model, step).backward()
            if handle is not None:
                handle.remove()
            if when == "before":
                grads = gradfilter_ema(model, grads)
            selector.step()
            if when == "after":
                grads = gradfilter_ema(model, grads)
            optimizer.step()
            assert all(p.isfinite().all() for p in model.parameters())
            assert sum(float(p.grad.norm()) ** 2 for p in model.parameters()) > 0 or bad
            optimizer.zero_grad()


def test_adalora():
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")

    def build() -> nn.Module:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=2,
            vocab_size=64,
        )
        how = peft.AdaLoraConfig(
            init_r=6,
            target_r=3,
            tinit=1,
            tfinal=2,
            deltaT=1,
            total_step=8,
            target_modules=["q_proj", "v_proj"],
            task_type="CAUSAL_LM",
        )
        return peft.get_peft_model(transformers.LlamaForCausalLM(config), how)

    tokens = torch.randint(3, 64, (4, 12), generator=torch.Generator().manual_seed(1))
    model = build()
    with FastSelector(model, "topk:k=2") as selector:
        assert selector.mode == "gate"
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
        selector.attach(optimizer)
        for step in range(6):
            model(input_ids=tokens, labels=tokens).loss.backward()
            selector.step()
            optimizer.step()
            model.base_model.update_and_allocate(step)
            optimizer.zero_grad()
    model = build()
    with pytest.raises(
        LayerSelectError, match=r"update_and_allocate.. reads the gradient of every adapter .*: use mode='gate'"
    ):
        FastSelector(model, "topk:k=2", mode="freeze")
    # An adapter that does not train asks for no gradient.
    for name, p in model.named_parameters():
        p.requires_grad_("layers" in name and "lora_" not in name and "mlp" in name)
    with FastSelector(model, "topk:k=2") as selector:
        assert selector.mode == "freeze"
