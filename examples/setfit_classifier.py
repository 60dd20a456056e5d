"""Layer selection in SetFit: the body of its model trains through a Trainer, and takes the same callback.

A classifier of intentions learns from a few examples of each in the demo corpus. SetFit first trains the encoder on
pairs of them, and that is where layers are selected; the head is fitted to the embeddings afterwards.

    pip install setfit
    python examples/setfit_classifier.py
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
from sentence_transformers import SentenceTransformer, models
from setfit import SetFitModel, Trainer, TrainingArguments
from sklearn.linear_model import LogisticRegression
from transformers import set_seed


def make_model(texts: list[str], labels: list[str], folder: str) -> SetFitModel:
    """The demo's small encoder with random weights; ``SetFitModel.from_pretrained`` takes trained ones."""
    made = build_demo_classifier(texts, labels, multi_label=False)
    made.model.base_model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    words = models.Transformer(folder, max_seq_length=64)
    body = SentenceTransformer(modules=[words, models.Pooling(made.model.config.hidden_size)], device="cpu")
    return SetFitModel(model_body=body, model_head=LogisticRegression(max_iter=500), labels=labels)


def main(steps: int = 30, of_each: int = 8, seed: int = 0) -> tuple[float, FastSelector]:
    set_seed(seed)
    corpus = load_corpus("demo")
    rows = [
        {"text": f"{row['before']} {row['after']}", "label": row["intentions"][0]} for row in corpus.splits["train"]
    ]
    few = [row for label in corpus.labels for row in [row for row in rows if row["label"] == label][:of_each]]
    selection = SelectorCallback(rule="variance", probe_every=10)
    with TemporaryDirectory() as scratch:
        model = make_model([row["text"] for row in rows], list(corpus.labels), scratch)
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                max_steps=steps,
                batch_size=8,
                body_learning_rate=1e-3,
                report_to="none",
                save_strategy="no",
                seed=seed,
            ),
            train_dataset=Dataset.from_list(few),
            callbacks=[selection],
        )
        trainer.train()
    right = sum(
        str(said) == row["label"] for said, row in zip(model.predict([r["text"] for r in few]), few, strict=True)
    )
    print(f"{right} of {len(few)} examples are told right")
    for name, count in zip(selection.selector.layer_names, selection.selector.frequency.tolist(), strict=True):
        print(f"{name}: selected in {count} of {steps} steps")
    return right / len(few), selection.selector


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="(default: 30)")
    parser.add_argument("--of-each", type=int, default=8, help="examples of each intention (default: 8)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # too small to gain from more
    main(args.steps, args.of_each)
