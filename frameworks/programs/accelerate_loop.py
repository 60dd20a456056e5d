"""A loop with ``accelerate``, as examples/accelerate_loop.py shows it: ``accelerate_loop WORD ...``."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from layerselect import FastSelector
from torch.utils.data import DataLoader

from ..tiny import llama, tokens_of


def main(*words: str, mode: str) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2 if {"accumulate", "pattern"} & set(words) else 1)
    rows = torch.cat([tokens_of(step) for step in range(12)])
    loader = DataLoader(rows, batch_size=4)
    model = llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    selector = FastSelector(model, "topk:k=2", mode=mode, probe_every=3)
    selector.attach(optimizer)
    for tokens in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(input_ids=tokens, labels=tokens).loss)
            if (
                accelerator.sync_gradients or "pattern" in words
            ):  # the pattern is accelerate's own: every call, every micro-batch
                selector.step()
            if "clip" in words and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()
            optimizer.zero_grad()
