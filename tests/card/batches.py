"""Batches of texts and of classified examples, and a classifier."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tests.helpers.models import VOCABULARY


def texts(count: int = 6, examples: int = 4, length: int = 9, seed: int = 0, *, padded: bool = False) -> list[dict]:
    """Batches of token ids with their own labels."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        ids = torch.randint(3, VOCABULARY, (examples, length), generator=generator)
        mask = torch.ones_like(ids)
        if padded:
            for row in range(1, examples):
                mask[row, length - row :] = 0
        labels = ids.masked_fill(mask == 0, -100)
        batches.append({"input_ids": ids * mask, "attention_mask": mask, "labels": labels})
    return batches


def classifier(problem: str | None = None, classes: int = 3) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            vocab_size=VOCABULARY,
            num_labels=classes,
            problem_type=problem,
        )
    )


def classified(count: int = 6, *, multi: bool = False) -> list[dict]:
    batches = texts(count, padded=True)
    for number, batch in enumerate(batches):
        generator = torch.Generator().manual_seed(number)
        labels = torch.randint(0, 3, (4,), generator=generator)
        batch["labels"] = nn.functional.one_hot(labels, 3).float() if multi else labels
    return batches


def figures(card, name: str) -> np.ndarray:
    return np.array([getattr(layer, name) for layer in card.layers])
