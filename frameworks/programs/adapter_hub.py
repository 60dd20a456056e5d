"""The ``adapters`` package: a bottleneck adapter of its own kind, with the Trainer's callback."""

from __future__ import annotations

import adapters
import torch
from layerselect import FastSelector

from ..tiny import llama, tokens_of


def main(kind: str, *, mode: str) -> None:
    model = llama()
    adapters.init(model)
    model.add_adapter("task", config=kind)
    model.train_adapter("task")
    selector = FastSelector(model, "topk:k=2", mode=mode, probe_every=3)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-3)
    selector.attach(optimizer)
    for step in range(8):
        tokens = tokens_of(step)
        model(input_ids=tokens, labels=tokens).loss.backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
