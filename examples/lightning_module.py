"""Layer selection in a Lightning module: one callback, with checkpoints.

A small classifier learns to tell the intentions of the demo corpus. The module knows nothing of the selection. A run
that is started again goes on from its last checkpoint, with the same selections as one that was never interrupted:

    pip install lightning
    python examples/lightning_module.py --out run
    python examples/lightning_module.py --out run --steps 60
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning
import torch
from layerselect import FastSelector
from layerselect.data import load_corpus
from layerselect.integrations.lightning import SelectorCallback
from layerselect.models.demo import build_demo_classifier
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader


class Classifier(lightning.LightningModule):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.losses: list[float] = []

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        loss = self.model(**batch).loss
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def make_data(batch_size: int) -> tuple[torch.nn.Module, DataLoader]:
    corpus = load_corpus("demo")
    rows = list(corpus.splits["train"])
    texts = [f"{row['before']} {row['after']}" for row in rows]
    loaded = build_demo_classifier(texts, corpus.labels, multi_label=False)

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        pairs = [row["before"] for row in rows], [row["after"] for row in rows]
        labels = torch.tensor([corpus.labels.index(row["intentions"][0]) for row in rows])
        return {**loaded.tokenizer(*pairs, padding=True, truncation=True, return_tensors="pt"), "labels": labels}

    return loaded.model.train(), DataLoader(rows, batch_size=batch_size, shuffle=True, collate_fn=collate)


def main(out: Path, steps: int = 30, seed: int = 0) -> tuple[list[float], FastSelector]:
    lightning.seed_everything(seed, verbose=False)
    model, loader = make_data(batch_size=16)
    module = Classifier(model)
    selection = SelectorCallback(rule="variance", probe_every=10)
    trainer = lightning.Trainer(
        max_steps=steps,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        callbacks=[selection, ModelCheckpoint(out, save_last=True)],
        default_root_dir=out,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    last = out / "last.ckpt"
    trainer.fit(module, loader, ckpt_path=last if last.exists() else None)
    for name, count in zip(selection.selector.layer_names, selection.selector.frequency.tolist(), strict=True):
        print(f"{name}: selected in {count} of {steps} steps")
    return module.losses, selection.selector


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("lightning-run"), help="(default: lightning-run)")
    parser.add_argument("--steps", type=int, default=30, help="(default: 30)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # too small to gain from more
    main(args.out, args.steps)
