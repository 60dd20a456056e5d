"""What a step costs: the bytes that autograd keeps for the backward pass."""

from __future__ import annotations

import weakref
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

    Each storage counts once, however many operations saved a view of it, and for as long as it is kept: where a part of
    the graph is dropped before the context is left, what it kept is gone. Parameters and buffers do not count: they are
    there anyway. Open it around a forward pass that keeps nothing from an earlier one.

    Args:
        exclude: tensors not to count; give the model's parameters and buffers.

    Attributes:
        bytes: that are kept now; once the context is left, those that were kept then.
    """

    def __init__(self, exclude: Iterable[Tensor] = ()) -> None:
        # By the storage, not its address: that of tensors without contents is always the same.
        self._excluded = {tensor.untyped_storage()._cdata for tensor in exclude}
        self._kept: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._then: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._excluded and key not in self._kept:
            self._kept[key] = (weakref.ref(storage, lambda _: self._dropped(key)), storage.nbytes())
        return tensor

    def _dropped(self, key: int) -> None:
        """A storage is gone, and another one may take its place."""
        self._kept.pop(key, None)

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.items())

    def items(self) -> list[tuple[int, int]]:
        """What tells each storage from the others, and its bytes."""
        return list({**self._then, **{key: size for key, (_, size) in self._kept.items()}}.items())

    def __enter__(self) -> SavedActivations:
        self._hooks.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._hooks.__exit__(*exc_info)
        # From now on the graph may go.
        self._then.update({key: size for key, (_, size) in self._kept.items()})
        self._kept.clear()


def saved_activation_bytes(model: nn.Module, forward: Any) -> int:
    """The bytes saved by one call of ``forward()``, which must return a loss of ``model``; the graph is freed."""
    with SavedActivations([*model.parameters(), *model.buffers()]) as saved:
        loss = forward()
    del loss
    return saved.bytes
