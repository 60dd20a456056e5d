"""What a step costs: the bytes that autograd keeps for the backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class SavedActivations:
    """Counts the bytes that autograd saves for the backward pass while the context is open.

    ::

        with SavedActivations(model.parameters()) as saved:
            loss = model(**batch).loss
        loss.backward()
        saved.bytes

    Each storage counts once, however many operations saved a view of it. Parameters and buffers do not count: they
    are there anyway. Open it around a forward pass that keeps nothing from an earlier one.

    Args:
        exclude: tensors not to count; give the model's parameters and buffers.

    Attributes:
        bytes: so far.
    """

    def __init__(self, exclude: Iterable[Tensor] = ()) -> None:
        # By the storage, not its address: that of tensors without contents is always the same.
        self._excluded = {tensor.untyped_storage()._cdata for tensor in exclude}
        self._seen: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # A saved storage lives as long as the graph, so no other one can take its place meanwhile.
        if storage._cdata not in self._excluded:
            self._seen[storage._cdata] = storage.nbytes()
        return tensor

    @property
    def bytes(self) -> int:
        return sum(self._seen.values())

    def items(self) -> list[tuple[int, int]]:
        """What tells each storage from the others, and its bytes."""
        return list(self._seen.items())

    def __enter__(self) -> SavedActivations:
        self._hooks.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._hooks.__exit__(*exc_info)


def saved_activation_bytes(model: nn.Module, forward: Any) -> int:
    """The bytes saved by one call of ``forward()``, which must return a loss of ``model``; the graph is freed."""
    with SavedActivations([*model.parameters(), *model.buffers()]) as saved:
        loss = forward()
    del loss
    return saved.bytes
