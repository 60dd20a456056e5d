"""Lightning, with the selector called by hand in the module, or with the callback: ``lightning_module
automatic|manual|callback WORD ...``.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from layerselect import FastSelector
from torch import nn
from torch.utils.data import DataLoader

from ..tiny import Plain, loss_of, tokens_of


class Learner(lightning.LightningModule):
    """Knows nothing of a selector."""

    def __init__(self, *words: str) -> None:
        super().__init__()
        self.model = Plain()
        self.words = words
        self.automatic_optimization = "manual" not in words

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor | None:
        loss = loss_of(self.model, batch)
        if self.automatic_optimization:
            return loss
        optimizers: Any = self.optimizers()
        self.manual_backward(loss)
        self.before_manual_step()
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            optimizer.step()
            optimizer.zero_grad()
        return None

    def before_manual_step(self) -> None:
        """Nothing to do."""

    def configure_optimizers(self) -> Any:
        if "two" not in self.words:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)
        matrices = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        return [torch.optim.AdamW(matrices, lr=1e-3), torch.optim.SGD(others, lr=1e-2)]


class ByHand(Learner):
    def __init__(self, *words: str, mode: str) -> None:
        super().__init__(*words)
        self.selector = FastSelector(self.model, "topk:k=2", mode=mode, probe_every=3)

    def before_manual_step(self) -> None:
        self.selector.step()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.automatic_optimization:
            self.selector.step()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.selector.trainable_parameters(), lr=1e-3)
        self.selector.attach(optimizer)
        return optimizer


def main(how: str, *words: str, mode: str) -> None:
    words = (*how.split("-"), *words)
    module: nn.Module = Learner(*words) if "callback" in words else ByHand(*words, mode=mode)
    callbacks, plugins = [], []
    if "callback" in words:
        from layerselect.integrations.lightning import SelectorCallback

        callbacks = [SelectorCallback(rule="topk:k=2", mode=mode, probe_every=3)]
    if "fp16" in words:
        plugins = [lightning.pytorch.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]
    trainer = lightning.Trainer(
        max_steps=8 * (2 if "two" in words else 1),
        accelerator="cpu",
        devices=2 if "ddp" in words else 1,
        strategy="ddp" if "ddp" in words else "auto",
        logger=False,
        callbacks=callbacks,
        plugins=plugins,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=0.05 if "clip" in words else None,
        accumulate_grad_batches=2 if "accumulate" in words else 1,
    )
    batches = torch.cat([tokens_of(step) for step in range(16 * (2 if "ddp" in words else 1))])
    trainer.fit(module, DataLoader(batches, batch_size=8))
