"""Layer selection in ``SentenceTransformerTrainer``: the same callback as in every Trainer.

A small encoder learns to put a sentence and its revision close together. What the loss itself trains (a head of
``SoftmaxLoss``) would train in every step.

    pip install sentence-transformers
    python examples/sentence_encoder.py
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
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
    models,
)
from transformers import set_seed


def make_encoder(texts: list[str], labels: list[str], folder: str) -> SentenceTransformer:
    """The demo's small encoder with random weights; ``SentenceTransformer("all-MiniLM-L6-v2")`` has trained ones."""
    made = build_demo_classifier(texts, labels, multi_label=False)
    made.model.base_model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    words = models.Transformer(folder, max_seq_length=48)
    return SentenceTransformer(modules=[words, models.Pooling(made.model.config.hidden_size)], device="cpu")


def main(steps: int = 30, seed: int = 0) -> tuple[list[float], FastSelector]:
    set_seed(seed)
    corpus = load_corpus("demo")
    rows = list(corpus.splits["train"])
    pairs = {"anchor": [row["before"] for row in rows], "positive": [row["after"] for row in rows]}
    selection = SelectorCallback(rule="variance", probe_every=10)
    with TemporaryDirectory() as scratch:
        encoder = make_encoder([*pairs["anchor"], *pairs["positive"]], corpus.labels, scratch)
        trainer = SentenceTransformerTrainer(
            encoder,
            SentenceTransformerTrainingArguments(
                output_dir=scratch,
                max_steps=steps,
                per_device_train_batch_size=8,
                learning_rate=1e-3,
                logging_steps=5,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                seed=seed,
            ),
            train_dataset=Dataset.from_dict(pairs),
            loss=losses.MultipleNegativesRankingLoss(encoder),
            callbacks=[selection],
        )
        trainer.train()
    for name, count in zip(selection.selector.layer_names, selection.selector.frequency.tolist(), strict=True):
        print(f"{name}: selected in {count} of {steps} steps")
    found = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return found, selection.selector


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="(default: 30)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # too small to gain from more
    main(args.steps)
