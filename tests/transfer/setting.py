"""Tiny predictors and generators of two architectures."""

import json
import re

import torch
from layerselect.models.adapters import AdapterConfig, add_adapter, peft_config
from layerselect.models.load import load_causal_lm
from layerselect.tasks.intent import Encoder, save_adapter
from layerselect.tasks.text.formats import InputFormat
from peft import get_peft_model
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from tests.helpers import tiny_intent

KINDS = ["lora", "dora", "bottleneck", "bottleneck-parallel", "none"]
ARCHITECTURES = ["llama", "gpt2"]
LABELS = ["a", "b"]
SHARED = [0, 2]
#: Container, number, and name inside the layer.
_IN_LAYER = re.compile(r"(?:.*\.)?(layers|h|layer)\.(\d+)\.(.+)")


def save_base(folder, architecture, seed=0, **changes):
    words = tiny_intent.tokenizer()
    torch.manual_seed(seed)
    if architecture == "llama":
        settings = {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": len(words),
        }
        model = LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))
    else:
        settings = {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": len(words)}
        model = GPT2LMHeadModel(GPT2Config(**{**settings, **changes}))
    model.save_pretrained(folder)
    words.eos_token = words.sep_token
    words.save_pretrained(folder)
    return folder


def config(kind, **changes):
    return AdapterConfig(kind, **{"rank": 2, "alpha": 4, "size": 4, "dropout": 0.0, **changes})


def in_layers(named):
    """(layer, name inside it) -> a copy, for what stands inside layers."""
    return {
        (int(match[2]), match[3]): value.detach().clone()
        for name, value in named
        if (match := _IN_LAYER.fullmatch(name))
    }


def tokens(seed):
    return torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(seed))


def save_run(folder, loaded, model, kind, **meta):
    encoder = Encoder(loaded.tokenizer, InputFormat("edits"), LABELS, 64, loaded.separator)
    save_adapter(folder / "adapter", model, encoder, base_model=loaded.source, kind=kind, multi_label=False)
    edit_json(folder / "adapter" / "layerselect.json", **meta)
    return folder


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def generator(base, kind="lora", seed=2, **changes):
    torch.manual_seed(seed)
    return add_adapter(load_causal_lm(base), config(kind, **changes))


def everything(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def layer_of(name):
    match = _IN_LAYER.fullmatch(name)
    return int(match[2]) if match else None


def shake(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)


def adapted(base, **changes):
    """A generator with LoRA elsewhere."""
    loaded = load_causal_lm(base)
    settings = peft_config(loaded, config("lora"))
    for key, value in changes.items():
        setattr(settings, key, value)
    return get_peft_model(loaded.model, settings)
