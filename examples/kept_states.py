"""Hidden states of frozen layers, computed once: a fine-tuning whose later epochs skip half of the model.

A small Llama with LoRA learns to name the token that stands first. The lower half of its layers never trains, so what
they make of an example is the same in every epoch: it is kept, and read.

    python examples/kept_states.py --epochs 4
"""

from __future__ import annotations

import argparse
import time

import torch
from layerselect import FastSelector
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForSequenceClassification

CLASSES = 8


def make_model() -> torch.nn.Module:
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=32,
        num_labels=CLASSES,
        pad_token_id=0,
    )
    adapters = LoraConfig(r=8, target_modules="all-linear", modules_to_save=["score"])  # and the new head
    return get_peft_model(LlamaForSequenceClassification(config), adapters)


def make_examples(count: int, generator: torch.Generator) -> list[dict[str, torch.Tensor]]:
    tokens = torch.randint(1, 1 + CLASSES, (count, 16), generator=generator)
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row[0] - 1} for row in tokens]


def train(epochs: int = 4, seed: int = 0, examples: int = 256) -> tuple[list[float], FastSelector]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = make_model()
    loader = DataLoader(make_examples(examples, generator), batch_size=32, shuffle=True, generator=generator)

    # Four of eight layers are below the cut; among the others the rule chooses in every step.
    selector = FastSelector(model, "topk:k=2", mode="freeze", state_cache="cached", cut=4)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=3e-3)
    selector.attach(optimizer)

    losses = []
    for epoch in range(epochs):
        start, total = time.perf_counter(), 0.0
        for batch in selector.state_cache.ahead(
            loader
        ):  # on a GPU: the next batch's states travel while this one is trained on
            loss = model(**batch).loss
            loss.backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item()
        losses.append(total / len(loader))
        print(
            f"epoch {epoch}  loss {losses[-1]:.3f}  {time.perf_counter() - start:.2f} s  "
            f"computed {selector.state_cache.filled}, read {selector.state_cache.read} examples"
        )
    selector.close()
    return losses, selector


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    train(parser.parse_args().epochs)
