"""``requires_grad`` switched off and on again. No other Python file sets it, of parameters or of activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn


class Freezer:
    """Switches the gradients of groups of parameters off and on, for as long as nobody else does.

    Args:
        groups: the parameters of each group; all of them take gradients.
    """

    def __init__(self, groups: Sequence[Sequence[nn.Parameter]]) -> None:
        self._groups = groups
        self._active = [True] * len(groups)

    @property
    def active(self) -> list[bool]:
        """Which groups take gradients."""
        return list(self._active)

    def apply(self, active: Sequence[bool]) -> None:
        """Lets exactly the groups marked in ``active`` take gradients in the next backward pass."""
        for index, wanted in enumerate(active):
            if wanted != self._active[index]:
                for parameter in self._groups[index]:
                    parameter.requires_grad_(wanted)
                self._active[index] = bool(wanted)

    def follow(self, groups: Sequence[Sequence[nn.Parameter]]) -> None:
        """Goes on with other parameters in the place of the old ones, as they are."""
        self._groups = groups
        self._active = [any(parameter.requires_grad for parameter in parameters) for parameters in groups]

    def restore(self) -> None:
        self.apply([True] * len(self._groups))


def switch_off(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Lets none of ``parameters`` require a gradient; returns those that did."""
    switched = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in switched:
        parameter.requires_grad_(False)
    return switched


def switch_on(parameters: Iterable[nn.Parameter]) -> None:
    """Takes back what :func:`switch_off` did to ``parameters``."""
    for parameter in parameters:
        parameter.requires_grad_(True)


def asking_gradient(activation: Tensor) -> Tensor:
    """The same values as a leaf of their own that requires a gradient."""
    return activation.detach().requires_grad_()
