"""What the processes of test_transformers.py run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from layerselect import FastSelector
from layerselect.integrations.transformers import SelectorCallback
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from transformers import Trainer, TrainingArguments

from tests.distributed.training import whole
from tests.helpers.models import VOCABULARY, hugging_face, with_lora
from tests.project.test_examples import load_example

#: Arguments of the callback, by run.
CALLBACKS: dict[str, dict[str, Any]] = {
    "gate": {"rule": "variance"},
    "freeze": {"rule": "topk:k=2", "mode": "freeze", "probe_every": 3},
}
#: The same under clipping that changes every step; with plain gradient descent, which does not make much of last bits.
CLIPPED = {"max_grad_norm": 0.05, "optim": "sgd", "learning_rate": 0.5}
CLIPPED_CALLBACKS: dict[str, dict[str, Any]] = {
    "gate": {"rule": "variance", "mode": "gate"},
    "freeze": {"rule": "variance", "mode": "freeze", "probe_every": 4},
}
ENGINES = ("ddp", "fsdp2")
BATCH = 4
#: Of examples/distributed.py.
EXAMPLES = (("ddp", "freeze"), ("fsdp2", "auto"))


def rows(count: int = 24) -> list[dict[str, Tensor]]:
    tokens = torch.randint(3, VOCABULARY, (count, 7), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in tokens]


@contextmanager
def sharding(trainer: Trainer) -> Iterator[None]:
    """FSDP2 as accelerate sets it up where there are GPUs; without them it has to be told."""
    shared, partial = AcceleratorState._shared_state, PartialState._shared_state
    shared["fsdp_plugin"] = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["LlamaDecoderLayer"]
    )
    shared["distributed_type"] = partial["distributed_type"] = DistributedType.FSDP
    trainer.is_fsdp_enabled = True
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def train(
    folder: Path,
    processes: int,
    resume: Path | None = None,
    engine: str = "ddp",
    changes: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Trains a small Llama for six steps, saved after three."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 6,
        "save_steps": 3,
        "per_device_train_batch_size": BATCH // processes,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
        "dataloader_pin_memory": False,
        "resume_from_checkpoint": None if resume is None else str(resume),
        **(changes or {}),
    }
    arguments = TrainingArguments(**settings)
    callback = SelectorCallback(**options)
    trainer = Trainer(with_lora(hugging_face("llama")), arguments, train_dataset=rows(), callbacks=[callback])
    with sharding(trainer) if engine == "fsdp2" and processes > 1 else nullcontext():
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
        "weights": [whole(p) for p in trainer.model.parameters()],
        "norms": [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row],
    }


def train_clipped(folder: Path, processes: int, engine: str, **options: Any) -> dict[str, Any]:
    return train(folder, processes, engine=engine, changes={**CLIPPED, "save_strategy": "no"}, **options)


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


def main(folder: Path) -> int:
    """Leaves what came of all trainings in ``folder``; returns the exit status."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    results = {name: train(folder / name, 2, **options) for name, options in CALLBACKS.items()}
    for name, options in CALLBACKS.items():
        results[f"{name}, resumed"] = train(
            folder / f"{name}-resumed", 2, resume=folder / name / "checkpoint-3", **options
        )
    for engine in ENGINES:
        for name, options in CLIPPED_CALLBACKS.items():
            results[f"clipped {engine} {name}"] = train_clipped(folder / "clipped", 2, engine, **options)
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
    return 0
