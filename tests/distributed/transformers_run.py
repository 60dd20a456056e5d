"""What ``torchrun`` runs for test_transformers.py: ``transformers_run.py FOLDER``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from layerselect import FastSelector
from layerselect.integrations.transformers import SelectorCallback
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from transformers import Trainer, TrainingArguments

from tests.distributed.training import whole
from tests.models import VOCABULARY, hugging_face, with_lora
from tests.test_examples import load_example

#: Arguments of the callback, by run.
CALLBACKS: dict[str, dict[str, Any]] = {
    "gate": {"rule": "variance"},
    "freeze": {"rule": "topk:k=2", "mode": "freeze", "probe_every": 3},
}
#: Every gradient is clipped, before the optimizer steps. SGD makes nothing of the last bits of tiny gradients.
CLIPPED: dict[str, Any] = {"optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.05}
BATCH = 4
#: Of examples/distributed.py.
EXAMPLES = (("ddp", "freeze"), ("fsdp2", "auto"))


def rows(count: int = 24) -> list[dict[str, Tensor]]:
    tokens = torch.randint(3, VOCABULARY, (count, 7), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in tokens]


def train(
    folder: Path, processes: int, resume: Path | None = None, settings: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """Trains a small Llama for six steps, saved after three. ``settings``: of the Trainer."""
    arguments = TrainingArguments(**{
        "output_dir": str(folder), "max_steps": 6, "save_steps": 3, "per_device_train_batch_size": BATCH // processes,
        "gradient_accumulation_steps": 2, "learning_rate": 1e-2, "logging_steps": 1, "report_to": [], "use_cpu": True,
        "disable_tqdm": True, "seed": 3, "dataloader_pin_memory": False,
        "resume_from_checkpoint": None if resume is None else str(resume), **(settings or {}),
    })  # fmt: skip
    callback = SelectorCallback(**options)
    trainer = Trainer(with_lora(hugging_face("llama")), arguments, train_dataset=rows(), callbacks=[callback])
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    selector = callback.selector
    assert selector is not None
    history = selector.history.arrays()
    return {
        "wrapped": type(trainer.model_wrapped).__name__,
        "mode": selector.mode,
        "names": selector.layer_names,
        "masks": torch.as_tensor(history["mask"]),
        "scores": torch.as_tensor(history["scores"]),
        "trained": torch.as_tensor(history["trained"]),
        "weights": [p.detach().clone() for p in trainer.model.parameters()],
    }


def train_sharded(shard: bool, mode: str) -> dict[str, Any]:
    """Adapters of a Llama whose blocks are sharded, the frozen weights with them."""
    rank, processes = (dist.get_rank(), dist.get_world_size()) if shard else (0, 1)
    model = with_lora(hugging_face("llama"))
    if shard:
        for layer in model.base_model.model.model.layers:
            fully_shard(layer)
        fully_shard(model)
    selector = FastSelector(model, "topk:k=2", mode=mode, probe_every=4)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
    selector.attach(optimizer)
    batches = torch.stack([row["input_ids"] for row in rows(32)]).split(BATCH)
    for batch in batches:
        tokens = batch.chunk(processes)[rank]
        model(input_ids=tokens, labels=tokens).loss.backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
    history = selector.history.arrays()
    return {
        "masks": torch.as_tensor(history["mask"]),
        "scores": torch.as_tensor(history["scores"]),
        "trained": torch.as_tensor(history["trained"]),
        "weights": [whole(p) for p in model.parameters()],
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    results = {name: train(folder / name, 2, **options) for name, options in CALLBACKS.items()}
    for name, options in CALLBACKS.items():
        results[f"{name}, clipped"] = train(folder / f"{name}-clipped", 2, settings=CLIPPED, **options)
    for name, options in CALLBACKS.items():
        results[f"{name}, resumed"] = train(
            folder / f"{name}-resumed", 2, resume=folder / name / "checkpoint-3", **options
        )
    for mode in ("gate", "freeze"):
        results[f"sharded {mode}"] = train_sharded(True, mode)
    for engine, mode in EXAMPLES:
        losses, selector = load_example("distributed").train(engine, mode, steps=25)
        history = selector.history.arrays()
        results[f"example {engine}"] = {
            "losses": losses,
            "mask": torch.as_tensor(history["mask"]),
            "mode": selector.mode,
        }
    torch.save(results, folder / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
