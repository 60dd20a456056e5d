"""Sharded parameters and moments of optimizers, gathered whole and cut into shards again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .engines import put_shards_back
from .sharding import held_here, is_sharded


@contextmanager
def gathered(model: nn.Module, names: Collection[str] | None = None, *, changed: bool = False) -> Iterator[None]:
    """In the block, sharded parameters of ``model`` stand there whole, on the CPU, as if nothing had sharded them.

    Every process has to enter it. The model must not be called meanwhile.

    Args:
        names: of the parameters, as ``model.named_parameters()`` has them; ``None``: all of them.
        changed: what the block does to them reaches the shards. All processes must do the same.
    """
    put_shards_back(model)
    wholes: dict[int, nn.Parameter] = {}  # a parameter that stands in two places stays one
    places: list[tuple[nn.Module, str, Any]] = []
    try:
        for prefix, module in model.named_modules():
            for name, shard in list(module._parameters.items()):
                if not is_sharded(shard) or (names is not None and f"{prefix}.{name}".lstrip(".") not in names):
                    continue
                if id(shard) not in wholes:
                    wholes[id(shard)] = nn.Parameter(_whole(shard), requires_grad=shard.requires_grad)
                places.append((module, name, shard))
                module._parameters[name] = wholes[id(shard)]
        with _unwatched({module for module, _, _ in places}):
            yield
        if changed:
            for shard in {id(shard): shard for _, _, shard in places}.values():
                _refill(shard, wholes[id(shard)].detach())
    finally:
        for module, name, shard in places:
            module._parameters[name] = shard


@contextmanager
def _unwatched(modules: Collection[nn.Module]) -> Iterator[None]:
    """In the block, ``fully_shard`` does not look for its shards in modules that have just been given weights."""
    hooks = {module: module._load_state_dict_post_hooks for module in modules}
    try:
        for module in hooks:
            module._load_state_dict_post_hooks = OrderedDict()
        yield
    finally:
        for module, found in hooks.items():
            module._load_state_dict_post_hooks = found


def gathered_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """What ``optimizer.state_dict()`` returned, whole and on the CPU. Every process has to call it."""
    moments = {
        number: {name: _whole(value) if is_sharded(value) else value for name, value in kept.items()}
        for number, kept in state["state"].items()
    }
    return {**state, "state": moments}


@torch.no_grad()
def scatter_state(optimizer: torch.optim.Optimizer) -> None:
    """Cuts the moments of an optimizer that was given whole ones, as its parameters are cut."""
    from torch.distributed.tensor import distribute_tensor

    for parameter, kept in optimizer.state.items():
        if not is_sharded(parameter):
            continue
        for name, value in kept.items():
            if isinstance(value, Tensor) and not is_sharded(value) and value.shape == parameter.shape:
                there = value.to(parameter.device)
                # Every process has the whole of it: nothing is sent.
                mesh, placements = parameter.device_mesh, parameter.placements
                kept[name] = distribute_tensor(there, mesh, placements, src_data_rank=None)


def _whole(shard: Any) -> Tensor:
    """All of a ``DTensor``, on the CPU. Every process has to call it."""
    whole: Tensor = shard.detach().full_tensor().cpu()
    return whole


@torch.no_grad()
def _refill(shard: Any, whole: Tensor) -> None:
    from torch.distributed.tensor import distribute_tensor

    there = whole.to(device=shard.device, dtype=shard.dtype)
    cut = distribute_tensor(there, shard.device_mesh, shard.placements, src_data_rank=None)
    held_here(shard).copy_(held_here(cut))
