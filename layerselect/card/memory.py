"""What a card needs in memory, said before it starts, and how it is kept within bounds."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..layers.model_hooks import ModelHook
from ..utils.sizes import show_bytes
from .maps import LinearMap, WatchedLayers
from .statistics import BatchShape, Source

logger = logging.getLogger(__name__)

_DOUBLE = 8


@dataclass(frozen=True)
class Survey:
    """What one forward pass showed.

    Attributes:
        layers: the layers; the maps of each in the order in which they ran, without those that did not and those that a
            card cannot watch.
        leaders: for each map of each layer, the index within its layer of the first map that reads the same input.
        rows: for each map of each layer, the rows it read, padding included.
        left_out: names of the maps that a card cannot watch.
    """

    layers: WatchedLayers
    leaders: list[list[int]]
    rows: list[list[int]]
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MemoryPlan:
    """How the layers are measured within the bound.

    Attributes:
        sweeps: the layers that are watched together, one list for each sweep over the batches.
        statistics: bytes of the sums of the largest sweep.
        peak: bytes of all that a card holds at a time besides the model and the pass itself: the sums, the inputs or
            predicted changes of one batch, the space to solve in.
    """

    sweeps: list[list[int]]
    statistics: int
    peak: int


def survey(layers: WatchedLayers, forward: Callable[[], Any], *, examples: int | None = None) -> Survey:
    """Runs ``forward`` once and looks at what the maps read. The model is frozen, so that no graph is built.

    Args:
        examples: how many the batch has. Maps that do not read them one by one (routers that are given tokens in one
            list), or that run where the model allows no gradients, are left out; ``None`` leaves none out.

    Raises:
        LayerSelectError: a layer has no map that runs and can be watched, or the model has the examples in another
            dimension than the first.
    """
    record = _Record()
    flat = [linear for maps in layers.maps for linear in maps]
    with ExitStack() as stack, torch.set_grad_enabled(examples is not None):
        for index, linear in enumerate(flat):
            handle = linear.module.register_forward_hook(ModelHook(partial(record.forward, index)))
            stack.callback(handle.remove)
        forward()
    maps, leaders, rows, left_out = [], [], [], []
    start, first = 0, None if examples is None else _first_dimension(flat, record, examples)
    for name, own in zip(layers.names, layers.maps, strict=True):
        # In the order in which they ran, so that those which read the same input stand together.
        ran = [index for index in record.rows if start <= index < start + len(own)]
        start += len(own)
        if not ran:
            raise LayerSelectError(
                f"none of the linear maps of layer {name!r} ran in the loss of the first batch: leave it out "
                "with layers="
            )
        if len(ran) < len(own):
            logger.info("%s: %d of %d linear maps do not run and are left out", name, len(own) - len(ran), len(own))
        if first is not None:
            kept = _watchable(name, ran, flat, record, first)
            left_out += [flat[index].name for index in ran if index not in kept]
            ran = kept
        place = {index: number for number, index in enumerate(ran)}
        maps.append([flat[index] for index in ran])
        leaders.append([place.get(record.leaders[index], place[index]) for index in ran])
        rows.append([record.rows[index] for index in ran])
    return Survey(WatchedLayers(layers.names, layers.modules, maps), leaders, rows, left_out)


def _first_dimension(flat: Sequence[LinearMap], record: _Record, examples: int) -> int | None:
    """How long the first dimension is of what the maps read: a batch's examples, or whatever a caller's own loss makes
    of them.

    Raises:
        LayerSelectError: the examples are in another dimension (XLNet's come behind the tokens).
    """
    if not record.read or any(shape[:1] == (examples,) for shape in record.read.values()):
        return examples
    for index, shape in record.read.items():
        if examples in shape[1:]:
            raise LayerSelectError(
                "the model has the examples of a batch not in the first dimension of its hidden states "
                f"({flat[index].name!r} read {' x '.join(map(str, shape))} vectors for {examples} examples), so a "
                "card cannot tell them apart: use another model"
            )
    return Counter(shape[0] for shape in record.read.values() if shape).most_common(1)[0][0]


def _watchable(layer: str, ran: Sequence[int], flat: Sequence[LinearMap], record: _Record, first: int) -> list[int]:
    """Those of a layer's maps that a card can watch."""
    fits = [index for index in ran if record.read[index][:1] == (first,)]
    kept = [index for index in fits if index not in record.without_gradients]
    if not kept:
        index, why = ran[0], "it ran where the model allows no gradients"
        if not fits:
            why = f"it read {' x '.join(map(str, record.read[index]))} vectors where others read {first} x ..."
        raise LayerSelectError(
            f"no linear map of layer {layer!r} can be watched for a card ({flat[index].name!r}: {why}): choose other "
            "layers"
        )
    return kept


class _Record:
    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}
        self.rows: dict[int, int] = {}
        self.read: dict[int, tuple[int, ...]] = {}
        self.without_gradients: set[int] = set()
        self._shape = BatchShape()
        self._source: Source | None = None
        self._leader = -1

    def forward(self, index: int, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self._source is None or not self._source.is_at(args[0]):
            self._source, self._leader = Source(args[0]), index
        self.leaders.setdefault(index, self._leader)
        self.rows[index] = self.rows.get(index, 0) + args[0].shape[:-1].numel()
        self.read[index] = tuple(self._shape.unfolded(args[0]).shape[:-1])
        if not torch.is_grad_enabled():
            self.without_gradients.add(index)


def plan_memory(found: Survey, limit: int, *, dtype: torch.dtype, growth: float = 1.0) -> MemoryPlan:
    """Divides the layers into sweeps, each within ``limit`` bytes.

    Args:
        growth: how many times as large as the surveyed batch the largest batch is.

    Raises:
        LayerSelectError: a layer alone needs more.
    """
    needs = [_need(found, layer, torch.finfo(dtype).bits // 8, growth) for layer in range(len(found.rows))]
    sweeps: list[list[int]] = []
    for layer, need in enumerate(needs):
        if need.total > limit:
            raise LayerSelectError(
                f"max_memory={show_bytes(limit)} is less than the {show_bytes(need.total)} that layer "
                f"{found.layers.names[layer]!r} alone needs: raise it, or watch fewer maps with targets="
            )
        if sweeps and _together([needs[i] for i in (*sweeps[-1], layer)]).total <= limit:
            sweeps[-1].append(layer)
        else:
            sweeps.append([layer])
    wholes = [_together([needs[i] for i in sweep]) for sweep in sweeps]
    return MemoryPlan(sweeps, max(w.statistics for w in wholes), max(w.total for w in wholes))


@dataclass(frozen=True)
class _Need:
    """Bytes: of the sums, of what is held while one batch is processed, of the space to solve in."""

    statistics: int
    batch: int
    workspace: int

    @property
    def total(self) -> int:
        return self.statistics + self.batch + self.workspace


def _need(found: Survey, layer: int, size: int, growth: float) -> _Need:
    maps, leaders = found.layers.maps[layer], found.leaders[layer]
    sums = sum(
        m.inputs * m.outputs + (m.inputs**2 if leader == i else 0)
        for i, (m, leader) in enumerate(zip(maps, leaders, strict=True))
    )
    held = sum(rows * max(m.inputs, m.outputs) for rows, m in zip(found.rows[layer], maps, strict=True))
    # To solve for a map in float64: its features and their factor, and both sides of the system.
    solving = max(_DOUBLE * (2 * m.inputs**2 + 2 * m.inputs * m.outputs) for m in maps)
    return _Need(sums * size, int(growth * held * size), solving)


def _together(needs: Sequence[_Need]) -> _Need:
    return _Need(sum(n.statistics for n in needs), sum(n.batch for n in needs), max(n.workspace for n in needs))
