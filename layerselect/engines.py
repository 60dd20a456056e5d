"""PyTorch's distributed engines: which of them runs a model, and what it allows.

* ``DistributedDataParallel`` averages a gradient after the hooks on it have run, and counts which gradients will come. It
  learns of frozen layers only with ``find_unused_parameters=True``: otherwise the processes silently drift apart in the first
  step and the next one raises.
* ``fully_shard`` (FSDP2) replaces the parameters by shards. Their gradients appear behind autograd's back, so that hooks in
  C++ never run; what takes gradients may change from step to step.
* A model that neither of them has touched may still be handed to one, or be this process's own.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .errors import LayerSelectError
from .foreign_engines import why_foreign
from .layer_freezer import LayerFreezer
from .model_hooks import ModelHook
from .sharding import is_spread


def processes() -> int:
    """How many processes train together; 1 where no group was set up."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def together(model: nn.Module) -> list[int]:
    """The processes that train ``model`` together, as its engine says; without one, all of them."""
    ddp = _ddp_in(model)
    if ddp is not None:
        return sorted(torch.distributed.get_process_group_ranks(ddp.process_group))
    meshes = {p.device_mesh for p in model.parameters() if is_spread(p)}
    if meshes:
        return sorted({rank for mesh in meshes for rank in mesh.mesh.flatten().tolist()})
    return list(range(processes()))


def why_final_late(model: nn.Module) -> str | None:
    """Why the gradients of ``model`` may be final only after the backward pass; None if they are final in it."""
    if _ddp_in(model) is not None:
        return "DistributedDataParallel averages the gradients after the hooks on them have run"
    if _has_shards(model):
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
            "FullyShardedDataParallel (FSDP1) flattens the parameters of many layers into one, so no layer can be measured: "
            "use torch.distributed.fsdp.fully_shard (FSDP2; in accelerate, fsdp_version: 2)"
        )
    foreign = why_foreign(model)
    if foreign is not None:
        raise LayerSelectError(foreign)


def check_freezing(model: nn.Module) -> None:
    """Refuses mode ``freeze`` where the engine that wraps ``model`` does not stand it.

    Raises:
        LayerSelectError: with the reason and the remedy.
    """
    ddp = _ddp_in(model)
    if ddp is not None:
        _check_ddp(ddp)


def put_shards_back(model: nn.Module) -> None:
    """Lets ``fully_shard`` put its shards back in place: after a forward pass without a backward pass, some modules still
    hold the gathered parameters, which no optimizer must be given."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    for module in model.modules():
        if kind is not None and isinstance(module, kind):
            module.reshard()


class EngineWatch:
    """Notices what a selector could not know of its model's engine when it was built.

    Where several processes train and the model was given without its engine, mode ``freeze`` freezes nothing before the
    first forward pass that training makes, since ``DistributedDataParallel`` never averages what it finds frozen when it is
    built. That pass shows whether it runs the model.

    Args:
        model: the selector's.
        freezer: the selector's; held back until the engine was seen.
        mode, capture: the selector's.
    """

    def __init__(self, model: nn.Module, freezer: LayerFreezer, *, mode: str, capture: str) -> None:
        self._processes = processes()
        self._any_will_do = mode != "freeze" and capture == "step"
        self._freezer = weakref.ref(freezer)
        self._under_ddp: bool | None = None  # None: not seen yet
        self._handle: Any = None
        if mode == "freeze" and self._processes > 1 and _ddp_in(model) is None and not _has_shards(model):
            freezer.hold()
            self._handle = model.register_forward_pre_hook(ModelHook(self._look))

    def check(self) -> None:
        """To be called when gradients have been computed.

        Raises:
            LayerSelectError: they were computed in no forward pass of the model, or the process group is newer than the
                selector, which was then built for a process that is alone.
        """
        if self._processes != processes() and not self._any_will_do:
            raise LayerSelectError(
                "the process group was set up after the selector was built: build the selector after init_process_group()"
            )
        if self._handle is not None and self._under_ddp is None:
            raise LayerSelectError(
                f"mode='freeze' has to see the forward passes of the model where {self._processes} processes train together, "
                "and there was none: give the selector the module that the training calls, or use mode='gate'"
            )

    def close(self) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _look(self, module: nn.Module, args: Any) -> None:
        ddp = DistributedDataParallel._get_active_ddp_module()
        if ddp is not None:
            _check_ddp(ddp)
            if self._under_ddp is False:
                raise LayerSelectError(
                    "the model was wrapped in DistributedDataParallel after layers of it had been frozen, and these would not "
                    "be averaged: wrap it first, then build the selector"
                )
            self._under_ddp = True
        elif self._under_ddp is None and torch.is_grad_enabled():
            self._under_ddp = False
        freezer = self._freezer()
        if freezer is not None and self._under_ddp is not None:
            freezer.release()


def _ddp_in(model: nn.Module) -> DistributedDataParallel | None:
    return next((module for module in model.modules() if isinstance(module, DistributedDataParallel)), None)


def _has_shards(model: nn.Module) -> bool:
    return any(map(is_spread, model.parameters()))


def _check_ddp(ddp: DistributedDataParallel) -> None:
    if ddp.static_graph:
        problem = "with static_graph=True, which"
    elif not ddp.find_unused_parameters:
        problem = "without find_unused_parameters=True, which"
    else:
        return
    raise LayerSelectError(
        f"mode='freeze' under DistributedDataParallel {problem} lets the processes drift apart as soon as a layer freezes: build "
        "it with find_unused_parameters=True and without a static graph, or use mode='gate'"
    )
