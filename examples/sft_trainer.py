"""Layer selection in trl's ``SFTTrainer``: the same callback as in every Trainer.

A small language model is tuned to revise: the demo corpus's sentences before and after a revision.

    pip install trl
    python examples/sft_trainer.py
    python examples/sft_trainer.py --lora
"""

from __future__ import annotations

import argparse
from tempfile import TemporaryDirectory

import torch
from datasets import Dataset
from layerselect import FastSelector
from layerselect.data import load_corpus
from layerselect.integrations.transformers import SelectorCallback
from layerselect.models.demo import build_demo_classifier
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM, set_seed
from trl import SFTConfig, SFTTrainer


def main(steps: int = 30, lora: bool = False, rows: int = 400, seed: int = 0) -> tuple[list[float], FastSelector]:
    set_seed(seed)
    corpus = load_corpus("demo")
    texts = [f"{row['before']} => {row['after']}" for row in corpus.splits["train"]][:rows]
    tokenizer = build_demo_classifier(texts, corpus.labels, multi_label=False).tokenizer
    tokenizer.eos_token = tokenizer.sep_token
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    selection = SelectorCallback(rule="topk:k=3", probe_every=10)
    with TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model,
            args=SFTConfig(
                output_dir=scratch,
                max_steps=steps,
                per_device_train_batch_size=8,
                learning_rate=3e-3,
                logging_steps=5,
                save_strategy="no",
                report_to="none",
                max_length=64,
                bf16=torch.cuda.is_available(),
                seed=seed,
            ),
            train_dataset=Dataset.from_dict({"text": texts}),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=8, target_modules="all-linear") if lora else None,
            callbacks=[selection],
        )
        trainer.train()
    for name, count in zip(selection.selector.layer_names, selection.selector.frequency.tolist(), strict=True):
        print(f"{name}: selected in {count} of {steps} steps")
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return losses, selection.selector


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="(default: 30)")
    parser.add_argument("--lora", action="store_true", help="train LoRA adapters instead of the weights")
    args = parser.parse_args()
    torch.set_num_threads(1)  # too small to gain from more
    main(args.steps, args.lora)
