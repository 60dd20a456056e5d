"""Layer selection in a ``transformers.Trainer``, with logs and checkpoints.

A small language model learns the sentences of the demo corpus. One line differs from a script without selection:
the callback. TensorBoard then shows the score of every layer, how many layers train and the lowest of them; the
selector is saved in every checkpoint; and a run that was killed, whenever it was, goes on where it was:

    python examples/transformers_trainer.py --out run
    python examples/transformers_trainer.py --out run          # continues from the last complete checkpoint, if there
    is one tensorboard --logdir run                                   # where tensorboard is installed
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from layerselect.data import load_corpus
from layerselect.integrations.transformers import SelectorCallback, last_checkpoint
from layerselect.models.demo import build_demo_classifier
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    set_seed,
)


def main(out: Path, steps: int = 60, save_steps: int = 20, rule: str = "variance", seed: int = 0) -> Trainer:
    set_seed(seed)
    corpus = load_corpus("demo")
    texts = sorted({row["after"] for row in corpus.splits["train"]})
    tokenizer = build_demo_classifier(texts, corpus.labels, multi_label=False).tokenizer
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(out),
            max_steps=steps,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            learning_rate=3e-3,
            logging_steps=5,
            save_steps=save_steps,
            save_total_limit=2,
            report_to="tensorboard" if find_spec("tensorboard") else "none",
            seed=seed,
        ),
        train_dataset=[dict(tokenizer(text, truncation=True, max_length=48)) for text in texts],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=[SelectorCallback(rule=rule, probe_every=10)],
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(out))
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("trainer-run"), help="(default: trainer-run)")
    parser.add_argument("--steps", type=int, default=60, help="(default: 60)")
    parser.add_argument("--save-steps", type=int, default=20, help="(default: 20)")
    parser.add_argument("--rule", default="variance", help="how layers are selected (default: variance)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # too small to gain from more
    main(args.out, args.steps, args.save_steps, args.rule)
