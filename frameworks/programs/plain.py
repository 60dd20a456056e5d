"""A loop in plain PyTorch, as the README shows it."""

from __future__ import annotations

import torch
from layerselect import FastSelector

from ..tiny import Plain, loss_of, tokens_of


def main(extra: str = "", *, mode: str) -> None:
    model = Plain()
    selector = FastSelector(model, "topk:k=2", mode=mode, probe_every=3)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
    selector.attach(optimizer)
    for step in range(8):
        for part in tokens_of(step).chunk(2 if extra == "accumulate" else 1):
            with torch.autocast("cpu", enabled=extra == "bf16"):
                loss_of(model, part).backward()
        selector.step()
        if extra == "clip":
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        if extra == "own-clip":
            selector.clip_grad_norm_(0.05)
        optimizer.step()
        optimizer.zero_grad(set_to_none=extra != "zeros")
