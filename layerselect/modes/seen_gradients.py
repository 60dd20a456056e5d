"""Which gradients a selector has measured."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from torch import Tensor, nn


class SeenGradients:
    """What tells the gradients that a selector has just measured from those of a later backward pass.

    Attributes:
        replayed: steps were captured in a CUDA graph, whose replays the host does not see: all gradients count as
            measured.
    """

    def __init__(self) -> None:
        self.replayed = False
        self._parameter: nn.Parameter | None = None
        self._gradient: weakref.ref[Tensor] | None = None
        self._version = 0

    def note(self, layers: Iterable[Iterable[nn.Parameter]]) -> None:
        """The selector is done with the gradients that these layers have."""
        self._parameter = next((p for parameters in layers for p in parameters if p.grad is not None), None)
        if self._parameter is not None and self._parameter.grad is not None:
            self._gradient, self._version = weakref.ref(self._parameter.grad), self._parameter.grad._version

    def are_there(self) -> bool:
        """Whether they are still there, and nobody wrote to them."""
        if self.replayed:
            return True
        if self._parameter is None or self._gradient is None:
            return False
        gradient = self._parameter.grad
        return gradient is not None and gradient is self._gradient() and gradient._version == self._version
