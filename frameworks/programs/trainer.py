"""``transformers.Trainer`` with the callback: ``trainer WORD ...``, where words switch its features on."""

from __future__ import annotations

from typing import Any

import torch
from layerselect.integrations.transformers import SelectorCallback
from transformers import Trainer, TrainingArguments

from ..tiny import llama, tokens_of

FEATURES: dict[str, dict[str, Any]] = {
    "accumulation": {"gradient_accumulation_steps": 2},
    "clipping": {"max_grad_norm": 0.05},
    "checkpointing": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "bf16": {"bf16": True},
    "compile": {"torch_compile": True, "torch_compile_backend": "aot_eager"},
    "neftune": {"neftune_noise_alpha": 5.0},
    "fsdp2": {
        "fsdp": "full_shard",
        "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]},
    },
    "deepspeed": {"deepspeed": {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto"}},
    "adafactor": {"optim": "adafactor"},
    "lomo": {"optim": "lomo"},
    "galore": {"optim": "galore_adamw", "optim_target_modules": ["q_proj", "up_proj"], "optim_args": "rank=4"},
    "galore-layerwise": {
        "optim": "galore_adamw_layerwise",
        "optim_target_modules": ["q_proj", "up_proj"],
        "optim_args": "rank=4",
    },
    "apollo-layerwise": {
        "optim": "apollo_adamw_layerwise",
        "optim_target_modules": ["q_proj", "up_proj"],
        "optim_args": "rank=4",
    },
    "paged8bit": {"optim": "paged_adamw_8bit"},
    "schedulefree": {"optim": "schedule_free_adamw"},
    "torchao": {"optim": "adamw_torch_8bit"},
    "stable": {"optim": "stable_adamw"},
}


def main(*words: str, mode: str) -> None:
    model = llama()
    if "lora" in words:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    features: dict[str, Any] = {"max_grad_norm": 0.0}
    for word in words:
        features.update(FEATURES.get(word, {}))
    args = TrainingArguments(
        output_dir="out",
        max_steps=6,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=2,
        save_strategy="no",
        report_to="none",
        use_cpu="deepspeed" not in words,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **features,
    )
    rows = [{"input_ids": row, "labels": row} for row in torch.cat([tokens_of(step) for step in range(6)])]
    callback = SelectorCallback(rule="topk:k=2", mode=mode, probe_every=3)
    Trainer(model, args, train_dataset=rows, callbacks=[callback]).train()
