"""Gradients that are sharded over processes: ``DTensor``, as ``fully_shard`` and tensor parallelism make them.

Each process adds up the squares of what it holds. One all-reduce of one number for each parameter then gives the sums
of the whole gradients.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from ..errors import LayerSelectError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: object) -> TypeGuard[DTensor]:
    """Whether ``tensor`` is a ``DTensor``."""
    # No DTensor can exist before its module is loaded, which takes a second that most users need not spend.
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(tensor, kind)


def is_gathered(placed: object, known: Tensor) -> bool:
    """Whether ``placed`` is what ``fully_shard`` puts in the place of the shard ``known`` while a module computes."""
    return (
        isinstance(placed, Tensor)
        and is_sharded(known)
        and (not is_sharded(placed) or placed.device_mesh != known.device_mesh)
    )


def held_here(tensor: Tensor) -> Tensor:
    """What this process holds of ``tensor``: the shard of a ``DTensor``, sharing its memory, and all of any other."""
    if not is_sharded(tensor):
        return tensor
    # What to_local() returns where autograd is off. The call takes ten times as long, and FSDP2 reads the attribute,
    # too.
    return _arrived(tensor._local_tensor)


def held_gradient(parameter: Tensor) -> Tensor | None:
    """What this process holds of the gradient of ``parameter``, laid out as the parameter is."""
    gradient = parameter.grad
    if gradient is None or not is_sharded(gradient):
        return gradient
    placed: Any = parameter  # another DTensor
    if gradient.placements != placed.placements:
        # As tensor parallelism leaves the gradients of replicated parameters: not added up yet.
        with torch.no_grad():
            gradient = gradient.redistribute(placed.device_mesh, placed.placements)
    return held_here(gradient)


def _arrived(tensor: Any) -> Tensor:
    """``tensor``, without the wrapper that functional collectives put around what is still on its way."""
    kind = getattr(sys.modules.get("torch.distributed._functional_collectives"), "AsyncCollectiveTensor", None)
    arrived: Tensor = tensor.wait() if kind is not None and isinstance(tensor, kind) else tensor
    return arrived


class ShardedSums:
    """Makes the sums of whole tensors from the sums of what each process holds of them.

    Tensors that several processes hold whole are counted once. Afterwards all processes of the largest mesh hold the
    same bits, for parameters that are no ``DTensor``, too. Launched on the current stream; with NCCL no host waits.

    Every process has to call :meth:`add_up` in every step, whether it has gradients or not.

    Args:
        parameters: at least one of them a ``DTensor``; in the same order in all processes. Parameters that are none are
            taken to be the same in all processes of the largest mesh.
        device: where the sums are.
        columns: how many numbers there are for each parameter.
    """

    def __init__(self, parameters: Sequence[Tensor], device: torch.device, columns: int = 1) -> None:
        meshes = list(dict.fromkeys(p.device_mesh for p in parameters if is_sharded(p)))
        largest = max(meshes, key=lambda mesh: mesh.size())
        home = [p.device_mesh if is_sharded(p) else largest for p in parameters]
        self._device = torch.device(largest.device_type)
        self._parts = [
            _MeshSums.over(
                mesh,
                [(i, p) for i, p in enumerate(parameters) if home[i] == mesh],
                [column * len(parameters) for column in range(columns)],
                device,
            )
            for mesh in meshes
        ]
        # Communicators may add in orders of their own. What was added over one dimension of one mesh is the same in all
        # that took part; over what else there is, all take the numbers of the first.
        self._copied = _groups(largest, _long(largest) - (self._parts[0].last if len(meshes) == 1 else set()))

    @classmethod
    def of(cls, parameters: Sequence[Tensor], device: torch.device, columns: int = 1) -> ShardedSums | None:
        """``None`` if no parameter is sharded."""
        return cls(parameters, device, columns) if any(map(is_sharded, parameters)) else None

    def add_up(self, sums: Tensor) -> None:
        """Replaces, in place, the sums of what is held here by the sums of the whole tensors.

        Args:
            sums: float64 [columns * P], on the device: a number for each parameter, column by column. With 1 for a
                gradient that this process has and else 0, a column becomes 0 where no process has one whose sum counts.
        """
        if sums.device.type == self._device.type:
            self._communicate(sums)
        else:
            self._communicate_elsewhere(sums)

    def _communicate(self, sums: Tensor) -> None:
        for part in self._parts:
            part.add_up(sums)
        for group in self._copied:
            torch.distributed.broadcast(sums, group=group, group_src=0)

    def _communicate_elsewhere(self, sums: Tensor) -> None:
        """For gradients that are kept on the host. This waits for the device of the meshes."""
        there = sums.to(self._device)
        self._communicate(there)
        sums.copy_(there)


@dataclass(frozen=True)
class _MeshSums:
    """The sums of the parameters that are sharded over one mesh."""

    places: Tensor  #: int64 [n], their places in the vector of sums
    counts: Tensor  #: bool [n], whether this process's number counts, or another one holds the same
    groups: list[Any]  #: process groups over which to add, one after the other
    last: set[int]  #: the dimension of the last of them

    @classmethod
    def over(cls, mesh: Any, members: list[tuple[int, Tensor]], columns: list[int], device: torch.device) -> _MeshSums:
        coordinate = mesh.get_coordinate()
        if coordinate is None:
            raise LayerSelectError(
                "this process holds parameters of a device mesh that it is no part of: build the selector where the "
                "model is"
            )
        own = [{d for d in _long(mesh) if is_sharded(p) and not p.placements[d].is_replicate()} for _, p in members]
        counts = [all(coordinate[d] == 0 for d in _long(mesh) - dims) for dims in own]
        added = set().union(*own)
        where = torch.device(mesh.device_type) if device.type != mesh.device_type else device
        return cls(
            torch.tensor([start + i for start in columns for i, _ in members], dtype=torch.int64, device=where),
            torch.tensor(counts * len(columns), dtype=torch.bool, device=where),
            _groups(mesh, added),
            set(sorted(added)[-1:]),
        )

    def add_up(self, sums: Tensor) -> None:
        mine = torch.where(self.counts, sums.index_select(0, self.places), 0.0)
        for group in self.groups:
            torch.distributed.all_reduce(mine, group=group)
        sums.index_copy_(0, self.places, mine)


def _long(mesh: Any) -> set[int]:
    """The dimensions of more than one process."""
    return {dim for dim in range(mesh.ndim) if mesh.size(dim) > 1}


def _groups(mesh: Any, dims: set[int]) -> list[Any]:
    return [mesh.get_group(dim) for dim in sorted(dims)]
