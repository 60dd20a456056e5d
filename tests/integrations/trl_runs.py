"""Tiny trainings by each trainer of trl that test_trl.py looks at: models, data and reward of a few bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast, Trainer

WORDS = [f"w{number}" for number in range(40)]
LAYERS = 4
STEPS = 4


def tokenizer() -> PreTrainedTokenizerFast:
    names = ["<pad>", "<s>", "</s>", "<unk>", *WORDS]
    inner = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
    )


def llama(kind: type[nn.Module] = LlamaForCausalLM) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        num_labels=1,
    )
    return kind(config)


def _text(start: int, count: int) -> str:
    return " ".join(WORDS[(start + 7 * step) % len(WORDS)] for step in range(count))


def _rows(**columns: Callable[[int], Any]) -> Dataset:
    return Dataset.from_list([{name: make(row) for name, make in columns.items()} for row in range(16)])


def _lora(task: str) -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear", task_type=task)


def _text_reward(completions: list[str], **_: Any) -> list[float]:
    return [float(len(set(text.split()))) for text in completions]


@dataclass(frozen=True)
class Kind:
    """How one trainer is built."""

    trainer: str
    config: str
    data: Callable[[], Dataset]
    settings: dict[str, Any] = field(default_factory=dict)
    model: type[nn.Module] = LlamaForCausalLM
    task: str = "CAUSAL_LM"
    more: dict[str, Any] = field(default_factory=dict)  #: further arguments of the trainer


def _prompts() -> Dataset:
    return _rows(prompt=lambda row: _text(row, 3))


def _pairs() -> Dataset:
    return _rows(
        prompt=lambda row: _text(row, 3), chosen=lambda row: _text(row + 1, 3), rejected=lambda row: _text(row + 2, 4)
    )


def _judged() -> Dataset:
    return _rows(
        prompt=lambda row: _text(row, 3), completion=lambda row: _text(row + 1, 3), label=lambda row: row % 2 == 0
    )


_ONLINE: dict[str, Any] = {"num_generations": 2, "max_completion_length": 4, "beta": 0.1, "temperature": 1.0}
_REWARD: dict[str, Any] = {"reward_funcs": _text_reward}
KINDS: dict[str, Kind] = {
    "sft": Kind("SFTTrainer", "SFTConfig", lambda: _rows(text=lambda row: _text(row, 8)), {"max_length": 16}),
    "dpo": Kind("DPOTrainer", "DPOConfig", _pairs, {"max_length": 16}),
    "dpo-precomputed": Kind("DPOTrainer", "DPOConfig", _pairs, {"max_length": 16, "precompute_ref_log_probs": True}),
    "kto": Kind("KTOTrainer", "KTOConfig", _judged, {"max_length": 16}),
    "kto-precomputed": Kind("KTOTrainer", "KTOConfig", _judged, {"max_length": 16, "precompute_ref_log_probs": True}),
    "grpo": Kind("GRPOTrainer", "GRPOConfig", _prompts, _ONLINE, more=_REWARD),
    "grpo-reused": Kind(
        "GRPOTrainer", "GRPOConfig", _prompts, {**_ONLINE, "num_iterations": 2, "steps_per_generation": 2}, more=_REWARD
    ),
    "rloo": Kind("RLOOTrainer", "RLOOConfig", _prompts, _ONLINE, more=_REWARD),
    "reward": Kind(
        "RewardTrainer",
        "RewardConfig",
        lambda: _pairs().remove_columns("prompt"),
        {"max_length": 16},
        LlamaForSequenceClassification,
        "SEQ_CLS",
    ),
}


def build(
    name: str,
    folder: Path,
    *callbacks: Any,
    checkpointing: bool | None = None,
    lora: bool = True,
    model: Any = None,
    **changes: Any,
) -> Trainer:
    """The trainer called ``name`` with a ``peft_config``, or over all weights.

    Args:
        checkpointing: ``None``: none; otherwise whether it is the reentrant kind.
        model: ``None`` makes one.
    """
    import trl

    kind = KINDS[name]
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "seed": 3,
        "bf16": False,
        "gradient_checkpointing": checkpointing is not None,
        **kind.settings,
        **changes,
    }
    if checkpointing is not None:
        settings["gradient_checkpointing_kwargs"] = {"use_reentrant": checkpointing}
    return getattr(trl, kind.trainer)(
        model=llama(kind.model) if model is None else model,
        args=getattr(trl, kind.config)(**settings),
        train_dataset=kind.data(),
        processing_class=tokenizer(),
        peft_config=_lora(kind.task) if lora else None,
        callbacks=list(callbacks),
        **kind.more,
    )
