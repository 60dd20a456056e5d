"""Mode ``freeze``: ``requires_grad`` follows the selection. No other Python file sets it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


class Freezer:
    """Switches the gradients of whole layers on and off, and remembers how it found them.

    Autograd skips what needs no gradient: a frozen adapter's weight gradient is not computed, what that
    gradient would need is not saved, and the backward pass ends at the lowest layer that trains.

    Args:
        layers: for each layer, the parameters to switch.
        active: which layers take gradients now; all, if not given.
    """

    def __init__(self, layers: Sequence[Sequence[nn.Parameter]], active: Sequence[bool] | None = None) -> None:
        self._layers = layers
        self._active = [True] * len(layers) if active is None else list(active)

    @property
    def active(self) -> list[bool]:
        """Which layers take gradients."""
        return list(self._active)

    def apply(self, active: Sequence[bool]) -> None:
        """Lets exactly the layers marked in ``active`` take gradients in the next backward pass."""
        for index, wanted in enumerate(active):
            if wanted != self._active[index]:
                for parameter in self._layers[index]:
                    parameter.requires_grad_(wanted)
                self._active[index] = bool(wanted)

    def drop_gradients(self, keep: Sequence[bool]) -> None:
        """Drops the gradients of the layers not in ``keep``, so that no optimizer moves them in this step."""
        for parameters, kept in zip(self._layers, keep, strict=True):
            if not kept:
                for parameter in parameters:
                    parameter.grad = None

    def restore(self) -> None:
        self.apply([True] * len(self._layers))
