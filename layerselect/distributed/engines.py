"""PyTorch's distributed engines: which of them runs a model, and what it allows.

* ``DistributedDataParallel`` averages a gradient after the hooks on it have run, and counts which gradients will come.
  It learns of frozen layers only with ``find_unused_parameters=True``: otherwise the processes silently drift apart in
  the first step and the next one raises.
* ``fully_shard`` (FSDP2) replaces the parameters by shards. Their gradients appear behind autograd's back, so that
  hooks in C++ never run; what takes gradients may change from step to step.
* A model that neither of them has touched may still be handed to one, or be this process's own.
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import LayerSelectError
from .foreign_engines import why_foreign
from .sharding import is_sharded


def processes() -> int:
    """How many processes train together; 1 where no group was set up."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def together(model: nn.Module) -> list[int]:
    """The processes that train ``model`` together, as its engine says; without one, all of them."""
    ddp = ddp_in(model)
    if ddp is not None:
        return sorted(torch.distributed.get_process_group_ranks(ddp.process_group))
    meshes = {p.device_mesh for p in model.parameters() if is_sharded(p)}
    if meshes:
        return sorted({rank for mesh in meshes for rank in mesh.mesh.flatten().tolist()})
    return list(range(processes()))


def why_final_late(model: nn.Module) -> str | None:
    """Why the gradients of ``model`` may be final only after the backward pass; None if they are final in it."""
    if ddp_in(model) is not None:
        return "DistributedDataParallel averages the gradients after the hooks on them have run"
    if has_shards(model):
        return "the parameters are sharded, and hooks do not see gradients of shards"
    if processes() > 1:
        return f"{processes()} processes train together, so the gradients may be averaged after the backward pass"
    return None


def check_engine(model: nn.Module) -> None:
    """Refuses engines in whose hands no parameter keeps a gradient of its own.

    Raises:
        LayerSelectError: naming the engine and what to use.
    """
    flat = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    if flat is not None and any(isinstance(module, flat) for module in model.modules()):
        raise LayerSelectError(
            "FullyShardedDataParallel (FSDP1) flattens the parameters of many layers into one, so no layer can be "
            "measured: use torch.distributed.fsdp.fully_shard (FSDP2; in accelerate, fsdp_version: 2)"
        )
    foreign = why_foreign(model)
    if foreign is not None:
        raise LayerSelectError(foreign)


def check_freezing(model: nn.Module) -> None:
    """Refuses mode ``freeze`` where the engine that wraps ``model`` cannot work with it.

    Raises:
        LayerSelectError: with the reason and the remedy.
    """
    ddp = ddp_in(model)
    if ddp is not None:
        check_ddp(ddp)


def put_shards_back(model: nn.Module) -> None:
    """Lets ``fully_shard`` put its shards back in place: after a forward pass without a backward pass, some modules
    still hold the gathered parameters, which no optimizer must be given.
    """
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    for module in model.modules():
        if kind is not None and isinstance(module, kind):
            module.reshard()


def ddp_in(model: nn.Module) -> DistributedDataParallel | None:
    """The engine that averages the gradients of ``model`` or of a part of it."""
    return next((module for module in model.modules() if isinstance(module, DistributedDataParallel)), None)


def has_shards(model: nn.Module) -> bool:
    """Whether some parameter is sharded over processes."""
    return any(map(is_sharded, model.parameters()))


def calls_together(model: nn.Module, calls: int) -> int:
    """How often each process has to call ``model`` where this one needs ``calls`` passes: a sharded model is called in
    all of its processes at once. All of them must ask.
    """
    if not has_shards(model):
        return calls
    mesh = next(p.device_mesh for p in model.parameters() if is_sharded(p))
    most = torch.tensor(calls, device=mesh.device_type)
    torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
    return int(most)


def check_ddp(ddp: DistributedDataParallel) -> None:
    """Refuses mode ``freeze`` under an engine that waits for the gradients of frozen layers.

    Raises:
        LayerSelectError: with the remedy.
    """
    if ddp.static_graph:
        problem = "with static_graph=True, which"
    elif not ddp.find_unused_parameters:
        problem = "without find_unused_parameters=True, which"
    else:
        return
    raise LayerSelectError(
        f"mode='freeze' under DistributedDataParallel {problem} lets the processes drift apart as soon as a layer "
        "freezes: build it with find_unused_parameters=True and without a static graph, or use mode='gate'"
    )
