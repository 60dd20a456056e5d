"""The tensors that the layers below a cut compute with, watched for changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from .below import Below
from .fingerprint import is_adapted

#: Numbers of each tensor that are looked at in every pass.
_SAMPLED = 16
_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class WatchedWeights:
    """Knows whether the tensors before a cut are those that were hashed.

    Args:
        below: where they stand.
    """

    def __init__(self, below: Below) -> None:
        self._below = below
        self._next = 0
        self.take_note()

    def take_note(self) -> None:
        """Remembers the tensors as they are."""
        self._tensors = self._below.tensors()
        self._put_back = frozenset(map(id, self._taken_out()))
        self._seen = _places(self._tensors, self._put_back)
        self._merged = self._below.merged()
        self._sums = [_sum(tensor) for tensor in self._tensors]
        self._samples = [sample for tensor in self._tensors if (sample := _sample(tensor)) is not None]
        self._sampled = [read() for read in self._samples]

    def changed(self) -> bool:
        """Whether one of the tensors was written to, replaced or moved. Waits for no device.

        Writing to ``tensor.data``, as merging an adapter does, escapes torch's count of writes. So on the CPU each call
        also looks at some numbers of every tensor, and at all of one, in turn.
        """
        tensors = self._below.tensors()
        if _places(tensors, self._put_back) != self._seen or self._below.merged() != self._merged:
            return True
        if not tensors:
            return False
        if [read() for read in self._samples] != self._sampled:
            return True
        self._next = (self._next + 1) % len(tensors)
        return _sum(tensors[self._next]) != self._sums[self._next]

    def training(self, *, held: frozenset[int] = frozenset(), but_adapters: bool = False) -> Tensor | None:
        """A tensor that takes gradients; ``None`` if none does.

        Args:
            held: parameters, by ``id``, that somebody keeps from training.
            but_adapters: nor does what an adapter in the blocks holds count.
        """
        asking = [t for t in self._tensors if t.requires_grad and id(t) not in held]
        if asking and but_adapters:
            adapters = {id(p) for p in self._of_adapters()}
            asking = [t for t in asking if id(t) not in adapters]
        return asking[0] if asking else None

    def refuse(self, tensor: Tensor) -> None:
        """Says that a tensor below the cut trains.

        Raises:
            LayerSelectError: always; it names a tensor that trains.
        """
        switched = self.is_switched(tensor)
        raise LayerSelectError(
            f"{self.name_of(tensor)} trains and stands below the cut, so hidden states would be out of date at once: "
            "freeze it, or train with state_cache='none'"
            + (" (peft's set_adapter() and disable_adapter() switch the gradients of adapters on)" if switched else "")
        )

    def is_switched(self, tensor: Tensor) -> bool:
        """Whether it is part of an adapter in a block, whose gradients ``peft`` switches on with the adapter."""
        return any(tensor is parameter for parameter in self._of_adapters())

    def name_of(self, tensor: Tensor) -> str:
        return next((name for name, other in self._below.model.named_parameters() if other is tensor), "a weight")

    def _taken_out(self) -> Iterator[Tensor]:
        """Parameters that ``peft`` parametrises for the time of each pass (experts): torch counts that as a write to
        them.
        """
        for _, module in self._below.parts:
            name = getattr(module, "parameter_name", None)
            if not isinstance(name, str) or not is_adapted(module):
                continue
            inner: Any = module
            while isinstance(further := inner._modules.get("base_layer"), nn.Module):
                inner = further
            if (parameter := inner._parameters.get(name)) is not None:
                yield parameter

    def _of_adapters(self) -> Iterable[Tensor]:
        for block in self._below.blocks:
            for module in block.modules():
                own = getattr(module, "base_layer" if is_adapted(module) else "original_module", None)
                if isinstance(own, nn.Module) and hasattr(module, "active_adapters"):
                    base = {id(p) for p in own.parameters()}
                    yield from (p for p in module.parameters() if id(p) not in base)


def _places(tensors: list[Tensor], put_back: frozenset[int]) -> list[tuple[int, int, int]]:
    """Where each tensor is, and how often it was written to, of those that are not ``put_back`` in each pass."""
    places = _all_places(tensors)
    return (
        [(which, -1, where) if which in put_back else (which, writes, where) for which, writes, where in places]
        if put_back
        else places
    )


def _all_places(tensors: list[Tensor]) -> list[tuple[int, int, int]]:
    try:
        return [(id(t), t._version, t.data_ptr()) for t in tensors]
    except RuntimeError:  # some are of inference mode, which counts no writes, or have no memory of their own
        return [(id(t), -1 if t.is_inference() else t._version, _pointer(t)) for t in tensors]


def _pointer(tensor: Tensor) -> int:
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0


def _flat(tensor: Tensor) -> Tensor | None:
    """Its bits as whole numbers, a view; ``None`` on a device, which the host does not wait for, and for unusual
    memory.
    """
    if tensor.device.type != "cpu" or type(tensor.data) is not Tensor or not tensor.is_contiguous():
        return None
    return tensor.detach().reshape(-1).view(_WHOLE.get(tensor.element_size(), torch.uint8))


def _sample(tensor: Tensor) -> Callable[[], bytes] | None:
    flat = _flat(tensor)
    if flat is None or not flat.numel():
        return None
    return flat[:: max(1, flat.numel() // _SAMPLED)].numpy().tobytes


def _sum(tensor: Tensor) -> int:
    """Of the bits, taken for whole numbers; 0 on a device, which the host does not wait for."""
    if tensor.device.type != "cpu":
        return 0
    whole: Any = _WHOLE.get(tensor.element_size(), torch.uint8)
    return int(tensor.detach().contiguous().view(whole).sum(dtype=torch.int64))
