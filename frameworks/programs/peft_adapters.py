"""Every kind of adapter of ``peft`` in the README's loop: ``peft_adapters NAME``."""

from __future__ import annotations

from typing import Any

import peft
import torch
from layerselect import FastSelector

from ..tiny import LAYERS, folder, llama, tokens_of

LINEAR = ["q_proj", "v_proj", "up_proj", "down_proj"]
PROMPTS = {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}
CONFIGS: dict[str, Any] = {
    "LoRA": lambda: peft.LoraConfig(r=4, target_modules=LINEAR),
    "DoRA": lambda: peft.LoraConfig(r=4, target_modules=LINEAR, use_dora=True),
    "rsLoRA": lambda: peft.LoraConfig(r=4, target_modules=LINEAR, use_rslora=True),
    "PiSSA": lambda: peft.LoraConfig(r=4, target_modules=LINEAR, init_lora_weights="pissa"),
    "LoRA on embeddings": lambda: peft.LoraConfig(r=4, target_modules=[*LINEAR, "embed_tokens"]),
    "LoRA, modules_to_save": lambda: peft.LoraConfig(r=4, target_modules=LINEAR, modules_to_save=["lm_head"]),
    "LoRA, modules_to_save in layers": lambda: peft.LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["input_layernorm"]
    ),
    "LoRA, trainable tokens": lambda: peft.LoraConfig(r=4, target_modules=LINEAR, trainable_token_indices=[7, 8, 9]),
    "LoRA, two adapters": lambda: peft.LoraConfig(r=4, target_modules=LINEAR),
    "LoRA of some layers": lambda: peft.LoraConfig(r=4, target_modules=LINEAR, layers_to_transform=[1, 2, 3]),
    "LoRA, shared between layers": lambda: peft.VBLoRAConfig(
        target_modules=["q_proj"], num_vectors=16, vector_length=16, r=2
    ),
    "AdaLoRA": lambda: peft.AdaLoraConfig(
        init_r=6, target_r=2, tinit=1, tfinal=2, deltaT=1, total_step=8, target_modules=LINEAR
    ),
    "IA3": lambda: peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LoHa": lambda: peft.LoHaConfig(r=4, target_modules=LINEAR),
    "LoKr": lambda: peft.LoKrConfig(r=4, target_modules=LINEAR),
    "OFT": lambda: peft.OFTConfig(r=0, oft_block_size=4, target_modules=["q_proj", "v_proj"]),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj", "v_proj"]),
    "HRA": lambda: peft.HRAConfig(r=4, target_modules=LINEAR),
    "VeRA": lambda: peft.VeraConfig(r=4, target_modules=["q_proj"]),
    "FourierFT": lambda: peft.FourierFTConfig(n_frequency=16, target_modules=LINEAR),
    "LN tuning": lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "post_attention_layernorm"]),
    "Bone": lambda: peft.MissConfig(r=4, target_modules=LINEAR),
    "RandLoRA": lambda: peft.RandLoraConfig(r=4, target_modules=["q_proj"]),
    "prefix tuning": lambda: peft.PrefixTuningConfig(**PROMPTS),
    "prompt tuning": lambda: peft.PromptTuningConfig(**PROMPTS),
    "p-tuning": lambda: peft.PromptEncoderConfig(encoder_hidden_size=32, **PROMPTS),
    "Llama-Adapter": lambda: peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=LAYERS, task_type="CAUSAL_LM"),
}


def adapted(name: str) -> torch.nn.Module:
    if name.startswith("QLoRA"):
        return _quantized(name)
    if name == "X-LoRA":
        return _mixed()
    model = peft.get_peft_model(llama(), CONFIGS[name]())
    if name == "LoRA, two adapters":
        model.add_adapter("second", peft.LoraConfig(r=2, target_modules=LINEAR))
        model.set_adapter("second")
    return model


def _quantized(name: str) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how = (
        BitsAndBytesConfig(load_in_8bit=True)
        if "8 bits" in name
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    )
    model = AutoModelForCausalLM.from_pretrained(folder("llama"), quantization_config=how, device_map={"": "cpu"})
    model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=LINEAR))


def _mixed() -> torch.nn.Module:
    """X-LoRA mixes adapters that were trained before."""
    for number in range(2):
        one = peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=LINEAR, init_lora_weights=False))
        one.save_pretrained(f"expert{number}")
    model = llama()
    model.config.use_cache = False
    config = peft.XLoraConfig(
        task_type="CAUSAL_LM",
        hidden_size=64,
        xlora_depth=2,
        adapters={"0": "expert0", "1": "expert1"},
    )
    return peft.get_peft_model(model, config)


def main(name: str, *, mode: str) -> None:
    model = adapted(name)
    selector = FastSelector(model, "topk:k=1" if name == "X-LoRA" else "topk:k=2", mode=mode, probe_every=3)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
    selector.attach(optimizer)
    model.train()
    for step in range(8):
        tokens = tokens_of(step)
        model(input_ids=tokens, labels=tokens).loss.backward()
        selector.step()
        optimizer.step()
        if name == "AdaLoRA":
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
