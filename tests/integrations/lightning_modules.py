"""Lightning modules around the plain stack, and what trains them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from tests.helpers.models import VOCABULARY, plain

#: Both names under which Lightning is installed.
PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def batches(count: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, VOCABULARY, (2, 6), generator=generator) for _ in range(count)]


def loader(count: int = 12, batch_size: int = 2, sampler: Any = None) -> DataLoader:
    return DataLoader(torch.cat(batches(count)), batch_size=batch_size, sampler=sampler)


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())


def module(package: str = PACKAGES[0], **facts: Any) -> Any:
    """A module that trains the plain stack with AdamW.

    Args:
        package: whose ``LightningModule`` it is.
        facts: ``manual``: ``"one"``, ``"two"`` or ``"alternating"`` optimizers in manual optimization; ``skips``: the
            batches that are left out; ``raises``: what is raised in the third batch; ``sharded``: whether its blocks
            are spread over the processes.
    """

    class Learner(importlib.import_module(package).LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = plain()
            self.manual = facts.get("manual")
            self.sharded = facts.get("sharded", False)
            self.automatic_optimization = self.manual is None

        def configure_model(self) -> None:
            if self.sharded and not any(isinstance(p, DTensor) for p in self.parameters()):
                for block in self.model.blocks:
                    fully_shard(block, mesh=self.device_mesh["data_parallel"])
                fully_shard(self.model, mesh=self.device_mesh["data_parallel"])

        def training_step(self, batch: Tensor, index: int) -> Tensor | None:
            if index == 2 and facts.get("raises"):
                raise facts["raises"]
            if index in facts.get("skips", ()):
                return None
            if self.manual is None:
                return loss_of(self.model, batch)
            optimizers = self.optimizers()
            for optimizer in optimizers if self.manual == "alternating" else [optimizers]:
                self.manual_backward(loss_of(self.model, batch))
                for one in optimizer if isinstance(optimizer, list) else [optimizer]:
                    one.step()
                self.zero_grad()
            return None

        def configure_optimizers(self) -> Any:
            if self.manual in ("two", "alternating"):
                parts = [self.model.blocks[:3], self.model.blocks[3:], self.model.embed, self.model.head]
                parts = [nn.ModuleList(parts[::2]), nn.ModuleList(parts[1::2])]
            else:
                parts = [self.model]
            made = [torch.optim.AdamW(part.parameters(), lr=1e-2) for part in parts]
            return made if len(made) > 1 else made[0]

    return Learner()


def trainer(folder: Path, *callbacks: Any, package: str = PACKAGES[0], **options: Any) -> Any:
    settings = {
        "default_root_dir": str(folder),
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": list(callbacks),
        "max_steps": 6,
        "max_epochs": 2,
    }
    return importlib.import_module(package).Trainer(**{**settings, **options})
