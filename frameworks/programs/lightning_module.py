"""Lightning: ``lightning_module automatic|manual|automatic-clip``."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from layerselect import FastSelector
from torch.utils.data import DataLoader

from ..tiny import Plain, loss_of, tokens_of


class Learner(lightning.LightningModule):
    def __init__(self, how: str, mode: str) -> None:
        super().__init__()
        self.model = Plain()
        self.automatic_optimization = how != "manual"
        self.selector = FastSelector(self.model, "topk:k=2", mode=mode, probe_every=3)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor | None:
        loss = loss_of(self.model, batch)
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        self.manual_backward(loss)
        self.selector.step()
        optimizer.step()
        optimizer.zero_grad()
        return None

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.automatic_optimization:
            self.selector.step()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.selector.trainable_parameters(), lr=1e-3)
        self.selector.attach(optimizer)
        return optimizer


def main(how: str, *, mode: str) -> None:
    trainer = lightning.Trainer(
        max_steps=8,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=0.05 if how.endswith("clip") else None,
        accumulate_grad_batches=2 if how == "automatic-accumulate" else 1,
    )
    batches = torch.cat([tokens_of(step) for step in range(16)])
    trainer.fit(Learner(how, mode), DataLoader(batches, batch_size=8))
