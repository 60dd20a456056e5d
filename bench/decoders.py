"""Decoders with LoRA on all linear maps and random weights, and copies of them that share what is frozen."""

from __future__ import annotations

import copy

import torch
from torch import nn

#: The width of a decoder that trains a step in tenths of a second on a CPU.
NARROW = {"hidden_size": 384, "intermediate_size": 1024, "num_attention_heads": 6, "num_key_value_heads": 6}


def lora_decoder(**shape: object) -> nn.Module:
    """A Llama decoder of this shape (arguments of ``LlamaConfig``), LoRA r=16 on all linear maps."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return get_peft_model(LlamaForCausalLM(LlamaConfig(**shape)), LoraConfig(r=16, target_modules="all-linear"))


def with_own_adapters(model: nn.Module) -> nn.Module:
    """A copy that shares what is frozen: several ways to train the same model can then take turns, each with its own
    hooks.
    """
    return copy.deepcopy(model, memo={id(p): p for p in model.parameters() if not p.requires_grad})


def adapters_of(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]
