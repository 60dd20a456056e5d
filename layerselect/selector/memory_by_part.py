"""Memory of a training by part of the model: layers, embeddings, head, and what is none of these.

A training of a few layers in full (LISA, BAdam) saves gradients and optimizer state of the other layers. Of small
models the embeddings and the head are most of what it still trains, and no selection of layers makes them smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed.sharding import held_here
from ..layers.find import LayeredParameters
from ..utils.linear_kind import is_linear

PARTS = ("layers", "embeddings", "head", "other")


@dataclass(frozen=True)
class PartMemory:
    """What one part of a model holds for its training, in this process.

    Attributes:
        part: ``layers``; ``embeddings``, with a head that shares their weights; ``head``: the linear maps behind the
            layers; or ``other``, such as the last norm.
        parameters: numbers that may train.
        weights: bytes of these parameters.
        gradients: bytes of the gradients that are there now.
        optimizer: bytes that the optimizers keep now.
    """

    part: str
    parameters: int
    weights: int
    gradients: int
    optimizer: int


def memory_by_part(
    model: nn.Module, found: LayeredParameters, optimizers: Sequence[torch.optim.Optimizer]
) -> list[PartMemory]:
    """See :meth:`layerselect.FastSelector.memory_by_part`."""
    parts = dict.fromkeys((id(p) for layer in found.layers for _, p in layer), "layers")
    parts |= {id(p): part for part, p in _outer(model, found)}
    everything = [p for layer in (*found.layers, found.outer) for _, p in layer]
    states: dict[str, int] = dict.fromkeys(PARTS, 0)
    counted: set[int] = set()
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            own = [t for t in _tensors(state) if t.data_ptr() not in counted]
            counted |= {t.data_ptr() for t in own}  # some optimizers share a table among all parameters
            states[parts.get(id(parameter), "other")] += _bytes(own)
    rows = []
    for part in PARTS:
        members = [p for p in everything if parts[id(p)] == part]
        rows.append(
            PartMemory(
                part,
                sum(p.numel() for p in members),
                _bytes(members),
                _bytes(p.grad for p in members if p.grad is not None),
                states[part],
            )
        )
    return [row for row in rows if row.parameters or row.optimizer]


def _outer(model: nn.Module, found: LayeredParameters) -> Iterator[tuple[str, Tensor]]:
    """The part of each parameter outside of the layers. A linear map in front of the first layer makes the layers'
    input, as the embeddings do.
    """
    order = {id(module): number for number, module in enumerate(model.modules())}
    first = min((order[id(block)] for block in found.modules if id(block) in order), default=0)
    wanted = {id(p) for _, p in found.outer}
    for name, parameter in model.named_parameters():
        if id(parameter) not in wanted:
            continue
        path = [model]
        for step in name.split(".")[:-1]:
            path.append(getattr(path[-1], step))
        # What an adapter stands around tells what the adapter belongs to.
        around = [*path, *(getattr(module, "base_layer", None) for module in path)]
        if any(isinstance(module, nn.Embedding) for module in around):
            yield "embeddings", parameter
        elif any(isinstance(module, nn.Module) and is_linear(module) for module in around):
            yield "head" if order[id(path[-1])] > first else "embeddings", parameter
        else:
            yield "other", parameter


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from _tensors(value)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(held_here(tensor).nbytes for tensor in tensors)
