"""torchtune's model in the loop of its recipes: ``torchtune_loop plain|optimizer-in-backward``."""

from __future__ import annotations

import torch
from layerselect import FastSelector
from torchtune.models.llama3 import llama3, lora_llama3
from torchtune.modules.peft import get_adapter_params, set_trainable_params
from torchtune.training import create_optim_in_bwd_wrapper, register_optim_in_bwd_hooks

from ..tiny import LAYERS, VOCABULARY, WIDTH, loss_of, tokens_of

SHAPE = {
    "vocab_size": VOCABULARY,
    "num_layers": LAYERS,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": WIDTH,
    "max_seq_len": 64,
    "intermediate_dim": 96,
}


def main(how: str, *, mode: str) -> None:
    if how == "lora":
        model = lora_llama3(["q_proj", "v_proj"], apply_lora_to_mlp=True, lora_rank=4, lora_alpha=8, **SHAPE)
        set_trainable_params(model, get_adapter_params(model))
    else:
        model = llama3(**SHAPE)
    selector = FastSelector(model, "topk:k=2", mode=mode, probe_every=3)
    if how == "optimizer-in-backward":
        each = {p: torch.optim.AdamW([p], lr=1e-3) for p in selector.trainable_parameters()}
        register_optim_in_bwd_hooks(model=model, optim_dict=each)
        optimizer = create_optim_in_bwd_wrapper(model=model, optim_dict=each)
        selector.attach(*each.values())
    else:
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-3)
        selector.attach(optimizer)
    for step in range(8):
        loss_of(model, tokens_of(step)).backward()
        selector.step()
        if how != "optimizer-in-backward":  # there, the recipe does not step either
            optimizer.step()
            optimizer.zero_grad()
