"""The second moments of linear maps, added up in a stream: X'X of the inputs, X'D of inputs and gradients of the
outputs.

A forward hook adds to X'X, a hook on the output's gradient to X'D. Only the inputs of the pass that runs are alive, as
in training; of earlier passes nothing is kept but the sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..layers.padding import PaddingMasks
from .maps import LinearMap, hooked

#: Columns of X'X that are added at a time. It is symmetric: only the blocks on and above the diagonal are computed.
_BLOCK = 512


@dataclass
class MapSums:
    """Sums over the rows seen so far, one row for each token (or example) that is not padding.

    Attributes:
        gram: [d, d], X'X, shared by maps that read the same input; only its blocks on and above the diagonal are there.
        cross: [d, m], X'D, where D holds the gradients of the sum of the losses.
        rows: how many.
    """

    gram: Tensor
    cross: Tensor
    rows: int = 0


@dataclass
class _Seen:
    """The last input that a map read, and its rows that count: all of them, or those at the indices ``kept``."""

    source: Source | None = None
    rows: Tensor | None = None
    kept: Tensor | None = None


class Statistics:
    """Watches maps and sums up what passes through them.

    ::

        statistics = Statistics(maps, leaders, padding)
        with statistics.watching():
            for batch in batches:
                sum_of_losses(batch).backward()

    Args:
        maps: the maps.
        leaders: for each map the index of the first one that reads the same input (its own, if it is that one).
        padding: where rows are left out.
        dtype: of the sums, at least that of the inputs; float32 or float64.
    """

    def __init__(
        self,
        maps: Sequence[LinearMap],
        leaders: Sequence[int],
        padding: PaddingMasks,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._maps, self._leaders, self._padding, self._dtype = maps, leaders, padding, dtype
        self._seen, self._shape = _Seen(), BatchShape()
        self.sums: list[MapSums] = []
        for index, linear in enumerate(maps):
            options: dict[str, Any] = {"dtype": dtype, "device": next(linear.module.parameters()).device}
            leader = leaders[index]
            own = leader == index
            gram = torch.zeros(linear.inputs, linear.inputs, **options) if own else self.sums[leader].gram
            self.sums.append(MapSums(gram, torch.zeros(linear.inputs, linear.outputs, **options)))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The hooks are there inside the block."""
        try:
            with hooked(self._maps, self._forward):
                yield
        finally:
            self._seen = _Seen()

    def mirror(self) -> None:
        """Fills in what lies below the diagonals."""
        for index, leader in enumerate(self._leaders):
            if index == leader:
                gram = self.sums[index].gram
                gram.copy_(gram.triu() + gram.triu(1).T)

    def _forward(self, index: int, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        rows, kept = self._rows(module, args[0])
        sums = self.sums[index]
        sums.rows += len(rows)
        if self._leaders[index] == index:
            _add_gram(sums.gram, rows)
        if not output.requires_grad:
            raise LayerSelectError(
                f"the linear map {self._maps[index].name!r} ran without gradients: call the model of a card where "
                "gradients are on"
            )
        output.register_hook(partial(self._backward, index, rows, kept))

    def _backward(self, index: int, rows: Tensor, kept: Tensor | None, gradient: Tensor) -> None:
        gradient = gradient.reshape(-1, gradient.shape[-1])
        if kept is not None:
            gradient = gradient[kept]
        self.sums[index].cross.addmm_(rows.T, gradient.to(self._dtype))

    def _rows(self, module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """The rows that count, [n, d], and their indices; ``None`` if all do. Maps that read the same input share
        them.
        """
        seen, inputs = self._seen, inputs.detach()
        if seen.source is None or not seen.source.is_at(inputs):
            mask = self._padding.mask_for(module, self._shape.unfolded(inputs).shape[:-1])
            kept = None
            if mask is not None and not bool(mask.all()):
                kept = mask.reshape(-1).nonzero().squeeze(1).to(inputs.device)
            rows = inputs.reshape(-1, inputs.shape[-1])
            rows = rows if kept is None else rows[kept]
            self._seen = seen = _Seen(Source(inputs), rows.to(self._dtype), kept)
        assert seen.rows is not None
        return seen.rows, seen.kept


class BatchShape:
    """Remembers how the rows of a batch are ordered, for maps that are given them in one long list."""

    def __init__(self) -> None:
        self._leading: torch.Size | None = None

    def unfolded(self, inputs: Tensor) -> Tensor:
        """``inputs`` as [examples, ..., d]: as they are, or where they are a list of all rows of the inputs before, in
        that order.
        """
        if inputs.dim() > 2:
            self._leading = inputs.shape[:-1]
        elif self._leading is not None and len(inputs) == self._leading.numel():
            return inputs.reshape(*self._leading, inputs.shape[-1])
        return inputs


class Source:
    """An input, held so that nothing else can take its place in memory."""

    def __init__(self, inputs: Tensor) -> None:
        self._inputs, self._version = inputs, inputs._version

    def is_at(self, inputs: Tensor) -> bool:
        """Whether ``inputs`` are these numbers, at the same place and not written to since."""
        mine = self._inputs
        return (
            mine.data_ptr() == inputs.data_ptr()
            and mine.shape == inputs.shape
            and mine.stride() == inputs.stride()
            and mine.dtype == inputs.dtype
            and self._version == inputs._version
        )


def _add_gram(gram: Tensor, rows: Tensor) -> None:
    """X'X is added to ``gram``, the blocks below the diagonal left out."""
    for start in range(0, gram.shape[0], _BLOCK):
        end = start + _BLOCK
        gram[start:end, start:].addmm_(rows[:, start:end].T, rows[:, start:])
