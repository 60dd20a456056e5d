"""Tiny models with random weights, one per architecture family."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

VOCABULARY = 64


class PlainStack(nn.Module):
    """An embedding, blocks and a head: no Hugging Face about it."""

    def __init__(self, layers: int = 6, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(layers)
        )
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(hidden)


def plain(layers: int = 6, seed: int = 0) -> PlainStack:
    torch.manual_seed(seed)
    return PlainStack(layers)


def plain_loss(model: nn.Module, seed: int = 0) -> Tensor:
    tokens = torch.randint(0, VOCABULARY, (4, 8), generator=torch.Generator().manual_seed(seed))
    logits = model(tokens)
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens.roll(-1, 1).flatten())


_DECODER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_DECODER))


def _gemma3() -> nn.Module:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(Gemma3TextConfig(**_DECODER, head_dim=8))


def _qwen() -> nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**_DECODER))


def _qwen3() -> nn.Module:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**_DECODER, head_dim=8))


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(n_embd=16, n_layer=4, n_head=2, vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2)
    )


def _opt() -> nn.Module:
    from transformers import OPTConfig, OPTForCausalLM

    return OPTForCausalLM(
        OPTConfig(
            hidden_size=16,
            ffn_dim=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            vocab_size=VOCABULARY,
            word_embed_proj_dim=16,
            max_position_embeddings=64,
        )
    )


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            vocab_size=VOCABULARY,
        )
    )


def _t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            vocab_size=VOCABULARY,
            decoder_start_token_id=0,
        )
    )


HUGGING_FACE: dict[str, Callable[[], nn.Module]] = {
    "llama": _llama,
    "gemma3": _gemma3,
    "qwen": _qwen,
    "qwen3": _qwen3,
    "gpt2": _gpt2,
    "opt": _opt,
    "bert": _bert,
    "t5": _t5,
}


def hugging_face(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return HUGGING_FACE[name]()


def language_loss(model: nn.Module, seed: int = 0) -> Tensor:
    tokens = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(seed))
    return model(input_ids=tokens, labels=tokens).loss


def with_lora(model: nn.Module, **options: object) -> nn.Module:
    """LoRA on every linear map of the layers, B drawn at random so that every gradient is alive."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(**{"r": 2, "target_modules": "all-linear", **options}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapted
