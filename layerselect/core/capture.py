"""Where the sums of squares of the gradients come from: the backward pass, or one pass when it has ended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from .. import _backend
from ..distributed.engine_seen import EngineSeen
from ..distributed.sharding import ShardedSums, held_gradient
from .gradient_watch import GradientWatch

logger = logging.getLogger(__name__)


class Capture(Protocol):
    """Measures gradients, one sum of squares per parameter."""

    @property
    def sqnorms(self) -> Tensor:
        """float64 [P], live."""
        ...

    @property
    def late(self) -> list[int]:
        """The parameters whose sums are of the gradients as ``finish()`` saw them, not as the backward pass left
        them.
        """
        ...

    @property
    def taken(self) -> bool:
        """Whether a gradient was gone when its backward pass ended, because somebody takes it during that pass."""
        ...

    def finish(self, written: bool = False) -> list[int]:
        """Closes the step. Afterwards ``sqnorms`` holds the sums of every parameter of the groups that were measured.

        Args:
            written: gradients were written to since the backward pass, perhaps without a trace.

        Returns:
            The groups that were measured: those in which some parameter has a gradient now. A gradient that no backward
            pass has touched and that is all zero, as ``zero_grad(set_to_none=False)`` leaves it, is none.
        """
        ...

    def written(self) -> bool:
        """Whether a gradient was written to in place, or replaced, since it was measured. Nothing waits for a
        device.
        """
        ...

    def close(self) -> None: ...


class StepCapture:
    """Measures all of ``.grad`` in one multi-tensor pass when a backward pass has ended, behind the engine's own last
    work. It serves where gradients are final only then, and where hooks in C++ cannot run.

    Of sharded parameters (``DTensor``) each process measures what it holds, and all processes add up in ``finish()``.
    Every process has to call it, also one without gradients.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], groups: Sequence[int], backend: str, owner: nn.Module | None = None
    ) -> None:
        self._groups = list(groups)
        self._ops = _backend.load(backend, parameters[0].device)
        self._local = torch.zeros(len(parameters), dtype=torch.float64)
        self._sharded = ShardedSums.of(parameters, self._local.device, columns=2)
        self.sqnorms = self._local if self._sharded is None else torch.zeros_like(self._local)
        self._engine = EngineSeen(owner, sharded=self._sharded is not None)
        num_groups = max(groups, default=-1) + 1
        self._watch = GradientWatch(parameters, groups, num_groups, self._measure, by_engine=self._engine.makes_final)

    @property
    def late(self) -> list[int]:
        return self._watch.late

    @property
    def taken(self) -> bool:
        return self._watch.taken

    def finish(self, written: bool = False) -> list[int]:
        with_gradient = self._watch.finish(written, anew=self._engine.unseen())
        measured = self._watch.measured(with_gradient, self._local)
        if self._sharded is None:
            return measured
        present = torch.zeros_like(self._local)
        here = set(measured)
        present[
            [i for i, group in enumerate(self._groups) if group in here and self._watch.gradient(i) is not None]
        ] = 1.0
        sums = torch.cat([self._local, present])
        self._sharded.add_up(sums)
        self.sqnorms.copy_(sums[: len(self._groups)])
        return sorted(
            {group for group, count in zip(self._groups, sums[len(self._groups) :].tolist(), strict=True) if count > 0}
        )

    def written(self) -> bool:
        return self._watch.written()

    def close(self) -> None:
        self._watch.close()
        self._engine.close()

    def _measure(self, due: list[int]) -> None:
        parameters = [self._watch.parameter(i) for i in due]
        with torch.no_grad():
            held = [None if parameter is None else held_gradient(parameter) for parameter in parameters]
        self._local[due] = self._ops.segment_sqnorm(held, torch.arange(len(due)), len(due), None)


def make_capture(
    kind: str,
    parameters: Sequence[nn.Parameter],
    groups: Sequence[int],
    num_groups: int,
    backend: str,
    owner: nn.Module,
) -> Capture:
    """Builds the capture called ``kind`` (``"backward"`` or ``"step"``); it ends with ``owner``, the model."""
    if kind == "step":
        return StepCapture(parameters, groups, backend, owner)
    ops = _backend.load(backend, parameters[0].device)
    monitor: Capture = ops.GradientMonitor(list(parameters), list(groups), num_groups, owner=owner)
    return monitor
