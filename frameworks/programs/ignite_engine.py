"""PyTorch-Ignite: the README's lines in the engine's update function."""

from __future__ import annotations

import torch
from ignite.engine import Engine
from layerselect import FastSelector

from ..tiny import Plain, loss_of, tokens_of


def main(*, mode: str) -> None:
    model = Plain()
    selector = FastSelector(model, "topk:k=2", mode=mode, probe_every=3)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-3)
    selector.attach(optimizer)

    def update(engine: Engine, tokens: torch.Tensor) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, tokens)
        loss.backward()
        selector.step()
        optimizer.step()
        return loss.item()

    Engine(update).run([tokens_of(step) for step in range(8)], max_epochs=1)
