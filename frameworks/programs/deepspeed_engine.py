"""DeepSpeed's engine: ``deepspeed_engine STAGE inner|engine|accelerate``: the selector over the model, over the engine,
or with accelerate.
"""

from __future__ import annotations

import deepspeed
import torch
from layerselect import FastSelector

from ..tiny import Plain, loss_of, tokens_of


def main(stage: str, where: str, *, mode: str) -> None:
    deepspeed.init_distributed("gloo")
    model = Plain()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if where == "accelerate":
        _with_accelerate(int(stage), model, optimizer, mode)
        return
    selector = None
    if where == "inner":
        selector = FastSelector(model, "topk:k=2", mode=mode, probe_every=3)
        selector.attach(optimizer)
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "zero_optimization": {"stage": int(stage)},
        "zero_allow_untested_optimizer": True,
    }
    engine, engine_optimizer, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    if selector is None:
        selector = FastSelector(engine, "topk:k=2", mode=mode, probe_every=3)
        selector.attach(engine_optimizer)
    for step in range(6):
        engine.backward(loss_of(engine, tokens_of(step)))
        selector.step()
        engine.step()


def _with_accelerate(stage: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, mode: str) -> None:
    from accelerate import Accelerator
    from accelerate.utils import DeepSpeedPlugin

    config = {
        "train_micro_batch_size_per_gpu": 8,
        "train_batch_size": 8 * torch.distributed.get_world_size(),
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    accelerator = Accelerator(deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config))
    model, optimizer = accelerator.prepare(model, optimizer)
    selector = FastSelector(model, "topk:k=2", mode=mode, probe_every=3)
    selector.attach(optimizer)
    for step in range(6):
        accelerator.backward(loss_of(model, tokens_of(step)))
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
