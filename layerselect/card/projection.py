"""What the changes that were solved for do on a batch: to the loss, and to the outputs of the model.

A layer's change W moves the output of each of its maps by W'x. Of that movement three numbers per example are kept:
the loss it removes to first order, -<d, W'x> with d the gradient of the loss; its square |W'x|^2; and the products of
the movement of the model's outputs u with random directions v. The last come from backward passes that begin at the
outputs with v: the gradient of <v, outputs> arrives at every map, and its product with W'x there is <v, u>, for all
layers at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..layers.padding import PaddingMasks
from .maps import LinearMap, hooked
from .statistics import BatchShape


class Projection:
    """Watches maps whose changes are known.

    Args:
        maps: the maps; those of a layer add up.
        changes: for each map, W [d, m].
        layers: the indices of the layers that the maps belong to, in ascending order.
        padding: where rows are left out.
    """

    def __init__(
        self, maps: Sequence[LinearMap], changes: Sequence[Tensor], layers: Sequence[int], padding: PaddingMasks
    ) -> None:
        self._maps, self._changes, self._padding = maps, changes, padding
        self._place = {layer: number for number, layer in enumerate(layers)}
        self._direction: int | None = None
        self._shape = BatchShape()
        self.begin()

    def begin(self) -> None:
        """A new batch.

        Attributes set, once the first map has run: ``removed`` and ``square``, float64 [layers, examples] on the CPU.
        """
        self.removed = self.square = torch.empty(0)
        self.moved = torch.empty(0)
        self._direction = None

    def expect(self, directions: int) -> None:
        """The backward pass of the loss will be followed by those of so many directions.

        Attributes set: ``moved``, float64 [directions, layers, examples].
        """
        self.moved = torch.zeros(directions, *self.removed.shape, dtype=torch.float64)

    def follow(self, direction: int | None) -> None:
        """Says what the next backward pass is of: the loss (``None``) or one of the directions."""
        self._direction = direction

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The hooks are there inside the block."""
        with hooked(self._maps, self._forward):
            yield

    def _forward(self, index: int, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        linear, inputs = self._maps[index], self._shape.unfolded(args[0].detach())
        examples = inputs.shape[0]
        self._allocate(examples, linear)
        change = self._changes[index]
        movement = inputs.to(change.dtype) @ change
        mask = self._padding.mask_for(module, inputs.shape[:-1])
        if mask is not None:
            movement *= mask.to(movement.device)[..., None]
        place = self._place[linear.layer]
        self._add(self.square[place], movement, movement)
        output.register_hook(partial(self._backward, place, movement))

    def _backward(self, place: int, movement: Tensor, gradient: Tensor) -> None:
        if self._direction is None:
            self._add(self.removed[place], movement, gradient, -1.0)
        else:
            self._add(self.moved[self._direction, place], movement, gradient)

    @staticmethod
    def _add(total: Tensor, one: Tensor, other: Tensor, factor: float = 1.0) -> None:
        product = (one * other.reshape(one.shape).to(one.dtype)).reshape(one.shape[0], -1).sum(dim=1)
        total.add_(product.to(total), alpha=factor)

    def _allocate(self, examples: int, linear: LinearMap) -> None:
        if self.removed.dim() == 1:
            self.removed = torch.zeros(len(self._place), examples, dtype=torch.float64)
            self.square = torch.zeros(len(self._place), examples, dtype=torch.float64)
        if self.removed.shape[1] != examples:
            raise LayerSelectError(
                f"the linear map {linear.name!r} read {examples} examples where others read {self.removed.shape[1]}: "
                "a card needs the examples in the first dimension of every input; leave the map out with targets="
            )
