"""Engines that run a model or its steps: ``engines NAME``."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from layerselect import FastSelector
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..tiny import LAYERS, Plain, loss_of, tokens_of

STEPS = 8
LONG = 220  #: for processes that disagree: these are compared now and then only


def main(name: str, *, mode: str) -> None:
    several = name.startswith(("ddp", "fsdp", "pipeline", "tensor", "zero", "join", "alone"))
    if several and not dist.is_initialized():
        dist.init_process_group("gloo")
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
    if name == "pipeline":
        _pipeline(mode, rank, ranks)
        return
    model = wrapped(name, Plain(), ranks)
    if name == "compiled-autograd":  # from here on, as a training script switches it on
        with torch._dynamo.compiled_autograd._enable(lambda graph: torch.compile(graph, backend="eager")):
            _train(name, mode, rank, ranks, model)
    else:
        _train(name, mode, rank, ranks, model)


def _train(name: str, mode: str, rank: int, ranks: int, model: nn.Module) -> None:
    selector = FastSelector(model, "topk:k=2", mode=mode, probe_every=3)
    optimizer = _optimizer(name, selector)
    selector.attach(optimizer)
    if name == "compile-after":
        model = torch.compile(model, backend="aot_eager")
    if name == "copies":
        average = torch.optim.swa_utils.AveragedModel(model)
    scaler = torch.amp.GradScaler("cpu", enabled=name == "scaler")
    for step in range(LONG if name == "alone" else STEPS):
        share = tokens_of(step) if name == "tensor" else tokens_of(step).chunk(ranks)[rank]
        loss = scaler.scale(loss_of(model, share))
        loss.backward()
        selector.step(*([scaler] if name == "scaler" else []))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if name == "copies":
            average.update_parameters(model)
            copy.deepcopy(model)(share)


def wrapped(name: str, model: nn.Module, ranks: int) -> nn.Module:
    """``model`` as the engine runs it."""
    if name == "ddp-static":
        return DistributedDataParallel(model, static_graph=True)
    if name.startswith("ddp") or name == "zero-redundancy":
        return DistributedDataParallel(model, find_unused_parameters=name == "ddp-unused")
    if name == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    if name.startswith("fsdp2"):
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)} if name == "fsdp2-bf16" else {}
        for block in model.blocks:
            fully_shard(block, **policy)
        return fully_shard(model, **policy)
    if name == "tensor":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        for block in model.blocks:
            plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
            parallelize_module(block, init_device_mesh("cpu", (ranks,)), plan)
        return model
    if name in ("compile", "compiled-autograd-after-compile"):
        return torch.compile(model, backend="aot_eager")
    if name == "compile-blocks":
        for block in model.blocks:
            block.compile(backend="aot_eager")
    if name == "checkpoint":
        for block in model.blocks:
            inner = block.forward
            block.forward = lambda hidden, inner=inner: torch.utils.checkpoint.checkpoint(
                inner, hidden, use_reentrant=False
            )
    return model


def _optimizer(name: str, selector: FastSelector) -> Any:
    parameters = selector.trainable_parameters()
    if name == "zero-redundancy":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return ZeroRedundancyOptimizer(parameters, torch.optim.AdamW, lr=1e-3)
    return torch.optim.AdamW(parameters, lr=1e-3)


def _pipeline(mode: str, rank: int, ranks: int) -> None:
    """Each process holds a part of the layers."""
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

    model = Plain()
    mine = LAYERS // ranks
    model.blocks = nn.ModuleList(list(model.blocks)[rank * mine : (rank + 1) * mine])
    if rank:
        model.embed = nn.Identity()
    if rank < ranks - 1:
        model.head = nn.Identity()
    stage = PipelineStage(model, rank, ranks, torch.device("cpu"))
    schedule = ScheduleGPipe(
        stage, 2, loss_fn=lambda out, goal: nn.functional.cross_entropy(out.flatten(0, 1), goal.flatten())
    )
    selector = FastSelector(model, "topk:k=1", mode=mode, probe_every=3)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-3)
    selector.attach(optimizer)
    for step in range(LONG):
        tokens = tokens_of(step)
        if rank == 0:
            schedule.step(tokens)
        else:
            schedule.step(target=tokens.roll(-1, 1))
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
