"""Where the sums of squares of the gradients come from: the backward pass, or one pass in ``step()``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from . import _backend

logger = logging.getLogger(__name__)


class Capture(Protocol):
    """Measures gradients, one sum of squares per parameter."""

    sqnorms: Tensor  #: float64 [P], live

    def finish(self) -> list[int]:
        """Closes the step; returns the groups in which some parameter has a gradient now. After it,
        ``sqnorms`` holds the sum of squares of the ``.grad`` of every parameter of these groups."""
        ...

    def close(self) -> None: ...


class StepCapture:
    """One multi-tensor pass over ``.grad`` in ``finish()``: for gradients that are final only then."""

    def __init__(self, parameters: Sequence[nn.Parameter], groups: Sequence[int], backend: str) -> None:
        self._parameters = list(parameters)
        self._groups = list(groups)
        self._ops = _backend.load(backend, self._parameters[0].device)
        self._segments = torch.arange(len(self._parameters))
        self.sqnorms = torch.zeros(len(self._parameters), dtype=torch.float64)

    def finish(self) -> list[int]:
        present = [i for i, p in enumerate(self._parameters) if p.grad is not None]
        gradients = [self._parameters[i].grad for i in present]
        self.sqnorms.zero_()
        if present:
            self.sqnorms.copy_(
                self._ops.segment_sqnorm(gradients, self._segments[present], len(self._parameters), None)
            )
        return sorted({self._groups[i] for i in present})

    def close(self) -> None:
        self._parameters = []


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
        return StepCapture(parameters, groups, backend)
    ops = _backend.load(backend, parameters[0].device)
    return ops.GradientMonitor(list(parameters), list(groups), num_groups, owner=owner)
