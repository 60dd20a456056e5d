"""What a card needs in memory, said before it starts, and how it is kept within bounds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..layers.model_hooks import ModelHook
from ..utils.sizes import show_bytes
from .maps import WatchedLayers
from .statistics import Source

logger = logging.getLogger(__name__)

_DOUBLE = 8


@dataclass(frozen=True)
class Survey:
    """What one forward pass showed.

    Attributes:
        layers: the layers; the maps of each in the order in which they ran, without those that did not.
        leaders: for each map of each layer, the index within its layer of the first map that reads the same input.
        rows: for each map of each layer, the rows it read, padding included.
    """

    layers: WatchedLayers
    leaders: list[list[int]]
    rows: list[list[int]]


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


def survey(layers: WatchedLayers, forward: Callable[[], Any]) -> Survey:
    """Runs ``forward`` once, without gradients, and looks at what the maps read.

    Raises:
        LayerSelectError: a layer none of whose maps run.
    """
    record = _Record()
    flat = [linear for maps in layers.maps for linear in maps]
    with ExitStack() as stack, torch.no_grad():
        for index, linear in enumerate(flat):
            handle = linear.module.register_forward_hook(ModelHook(partial(record.forward, index)))
            stack.callback(handle.remove)
        forward()
    maps, leaders, rows = [], [], []
    start = 0
    for name, own in zip(layers.names, layers.maps, strict=True):
        # In the order in which they ran, so that those which read the same input stand together.
        ran = [index for index in record.rows if start <= index < start + len(own)]
        start += len(own)
        if not ran:
            raise LayerSelectError(f"none of the linear maps of layer {name!r} ran in the loss of the first batch: leave it out "
                                   "with layers=")  # fmt: skip
        if len(ran) < len(own):
            logger.info("%s: %d of %d linear maps do not run and are left out", name, len(own) - len(ran), len(own))
        place = {index: number for number, index in enumerate(ran)}
        maps.append([flat[index] for index in ran])
        leaders.append([place.get(record.leaders[index], place[index]) for index in ran])
        rows.append([record.rows[index] for index in ran])
    return Survey(WatchedLayers(layers.names, layers.modules, maps), leaders, rows)


class _Record:
    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}
        self.rows: dict[int, int] = {}
        self._source: Source | None = None
        self._leader = -1

    def forward(self, index: int, module: nn.Module, args: tuple, output: Tensor) -> None:
        if self._source is None or not self._source.is_at(args[0]):
            self._source, self._leader = Source(args[0]), index
        self.leaders.setdefault(index, self._leader)
        self.rows[index] = self.rows.get(index, 0) + args[0].shape[:-1].numel()


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
    sums = sum(m.inputs * m.outputs + (m.inputs**2 if leader == i else 0) for i, (m, leader) in enumerate(
        zip(maps, leaders, strict=True)))  # fmt: skip
    held = sum(rows * max(m.inputs, m.outputs) for rows, m in zip(found.rows[layer], maps, strict=True))
    # To solve for a map in float64: its features and their factor, and both sides of the system.
    solving = max(_DOUBLE * (2 * m.inputs**2 + 2 * m.inputs * m.outputs) for m in maps)
    return _Need(sums * size, int(growth * held * size), solving)


def _together(needs: Sequence[_Need]) -> _Need:
    return _Need(sum(n.statistics for n in needs), sum(n.batch for n in needs), max(n.workspace for n in needs))
