"""TRL's trainers with the callback: ``trl_trainers NAME WORD ...``."""

from __future__ import annotations

from typing import Any

import trl
from layerselect.integrations.transformers import SelectorCallback
from peft import LoraConfig

from ..tiny import dataset, folder

NAMES = {"sft": "SFT", "dpo": "DPO", "kto": "KTO", "grpo": "GRPO", "rloo": "RLOO", "reward": "Reward"}
DATA = {
    "sft": "chat",
    "dpo": "preference",
    "kto": "unpaired",
    "grpo": "prompt",
    "rloo": "prompt",
    "reward": "preference",
}


def short_answers(completions: list[Any], **rest: Any) -> list[float]:
    """A reward that differs between completions."""
    return [float(len(str(completion)) % 7) for completion in completions]


def main(name: str, *words: str, mode: str) -> None:
    online = name in ("grpo", "rloo")
    features: dict[str, Any] = {"num_generations": 2, "max_completion_length": 8} if online else {"max_length": 64}
    if online or name in ("dpo", "kto"):
        features["beta"] = 0.1  # so that there is a reference model
    if "accumulation" in words:
        features["gradient_accumulation_steps"] = 2
    features["gradient_checkpointing"] = "checkpointing" in words
    if "reentrant" in words:
        features.update(gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True})
    args = getattr(trl, f"{NAMES[name]}Config")(
        output_dir="out",
        max_steps=5,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **features,
    )
    task = "SEQ_CLS" if name == "reward" else "CAUSAL_LM"
    trainer = getattr(trl, f"{NAMES[name]}Trainer")(
        model=folder("llama-reward" if name == "reward" else "llama"),
        args=args,
        train_dataset=dataset(DATA[name]),
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type=task) if "lora" in words else None,
        callbacks=[SelectorCallback(rule="topk:k=2", mode=mode, probe_every=3)],
        **({"reward_funcs": short_answers} if online else {}),
    )
    trainer.train()
