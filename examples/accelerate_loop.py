"""Layer selection in a hand-written ``accelerate`` loop, with gradient accumulation, clipping and a checkpoint.

A small classifier learns to tell the intentions of the demo corpus. The selector's step belongs where the gradients of
a whole optimizer step are there: after the backward pass of the last micro-batch, before clipping and
``optimizer.step()``. Inside of ``accelerator.accumulate`` the lines of the loop run for every micro-batch: before the
last one ``optimizer.step()`` does nothing, and neither does ``selector.step(accelerator)``.

    python examples/accelerate_loop.py
    accelerate launch examples/accelerate_loop.py                  # on whatever `accelerate config` was told
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from layerselect import FastSelector
from layerselect.checkpoint import load_selector, save_selector
from layerselect.data import load_corpus
from layerselect.models.demo import build_demo_classifier
from torch.utils.data import DataLoader


def make_data(accumulate: int) -> tuple[torch.nn.Module, DataLoader]:
    corpus = load_corpus("demo")
    rows = corpus.splits["train"]
    texts = [f"{row['before']} {row['after']}" for row in rows]
    loaded = build_demo_classifier(texts, corpus.labels, multi_label=False)

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        pairs = [row["before"] for row in rows], [row["after"] for row in rows]
        labels = torch.tensor([corpus.labels.index(row["intentions"][0]) for row in rows])
        return {**loaded.tokenizer(*pairs, padding=True, truncation=True, return_tensors="pt"), "labels": labels}

    return loaded.model, DataLoader(list(rows), batch_size=32 // accumulate, shuffle=True, collate_fn=collate)


def train(out: Path, steps: int = 30, accumulate: int = 2, seed: int = 0) -> tuple[list[float], FastSelector]:
    accelerator = Accelerator(gradient_accumulation_steps=accumulate)
    set_seed(seed)
    model, loader = make_data(accumulate)
    model, loader = accelerator.prepare(model, loader)

    selector = FastSelector(model, "variance", probe_every=10, seed=seed)
    optimizer = accelerator.prepare(torch.optim.AdamW(selector.trainable_parameters(), lr=1e-3))
    selector.attach(optimizer)
    if (out / "selector.json").exists():
        accelerator.load_state(str(out))
        load_selector(selector, out)

    losses: list[float] = []
    while selector.steps < steps:
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                selector.step(accelerator)  # which knows when the gradients are all there, and the scaler of fp16
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
            if accelerator.sync_gradients and selector.steps % 10 == 0:
                accelerator.print(f"step {selector.steps:4d}  loss {losses[-1]:.3f}  trains {selector.selected()}")
            if accelerator.sync_gradients and selector.steps >= steps:
                break

    accelerator.save_state(str(out))
    if accelerator.is_main_process:
        save_selector(selector, out)  # last: its file says that the rest is complete
    selector.close()
    return losses, selector


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="(default: 30)")
    parser.add_argument("--accumulate", type=int, default=2, help="micro-batches in a step (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("accelerate-run"), help="(default: accelerate-run)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # too small to gain from more
    train(args.out, args.steps, args.accumulate)
