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
        self._excluded = {tensor.untyped_storage().data_ptr() for tensor in exclude}
        self._seen: set[int] = set()
        self.bytes = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        # A saved storage lives as long as the graph, so no other one can take its address meanwhile.
        if address not in self._excluded and address not in self._seen:
            self._seen.add(address)
            self.bytes += storage.nbytes()
        return tensor

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
