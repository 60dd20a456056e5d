"""Mode ``freeze``: ``requires_grad`` follows the selection. No other Python file sets it, of parameters or of activations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Freezer:
    """Switches the gradients of whole layers on and off, and remembers how it found them.

    Autograd skips what needs no gradient: a frozen adapter's weight gradient is not computed, what that
    gradient would need is not saved, and the backward pass ends at the lowest layer that trains.

    Args:
        layers: for each layer, the parameters to switch; all of them take gradients.

    Attributes:
        floor: layers below it never take gradients, whatever is asked for.
    """

    def __init__(self, layers: Sequence[Sequence[nn.Parameter]]) -> None:
        self._layers = layers
        self.floor = 0
        self._active = [True] * len(layers)
        self._planned: list[bool] | None = None  # what is held back

    @property
    def active(self) -> list[bool]:
        """Which layers take gradients."""
        return list(self._active)

    @property
    def planned(self) -> list[bool]:
        """Which layers are to take gradients; what is held back included."""
        return self.active if self._planned is None else list(self._planned)

    @property
    def held(self) -> bool:
        """Whether :meth:`apply` only takes note."""
        return self._planned is not None

    def hold(self) -> None:
        """From now on :meth:`apply` only takes note, until :meth:`release`."""
        self._planned = self.planned

    def release(self) -> None:
        """Applies what was held back."""
        planned, self._planned = self._planned, None
        if planned is not None:
            self.apply(planned)

    def apply(self, active: Sequence[bool]) -> None:
        """Lets exactly the layers marked in ``active`` take gradients in the next backward pass, less those below the floor."""
        active = [wanted and index >= self.floor for index, wanted in enumerate(active)]
        if self._planned is not None:
            self._planned = active
            return
        for index, wanted in enumerate(active):
            if wanted != self._active[index]:
                for parameter in self._layers[index]:
                    parameter.requires_grad_(wanted)
                self._active[index] = bool(wanted)

    def follow(self, layers: Sequence[Sequence[nn.Parameter]]) -> None:
        """Goes on with other parameters in the place of the old ones, as they are."""
        self._layers = layers
        self._active = [any(parameter.requires_grad for parameter in parameters) for parameters in layers]

    def drop_gradients(self, keep: Sequence[bool]) -> None:
        """Drops the gradients of the layers not in ``keep``, so that no optimizer moves them in this step."""
        for parameters, kept in zip(self._layers, keep, strict=True):
            if not kept:
                for parameter in parameters:
                    parameter.grad = None

    def restore(self) -> None:
        self._planned, self.floor = None, 0
        self.apply([True] * len(self._layers))


def asking_gradient(activation: Tensor) -> Tensor:
    """The same values as a leaf of their own that requires a gradient."""
    return activation.detach().requires_grad_()
