"""What a training step holds in memory, found out by running it on tensors that have shapes and no contents.

The forward and the backward pass run as they are, layer by layer and operation by operation, on tensors that
``torch`` only pretends to fill (``FakeTensorMode``): no weights are read, nothing is computed, and a model of eight
billion weights takes seconds and half a gigabyte. Each allocation is counted while something holds it.

The batch has a prime number of examples, and no other size is a multiple of it: what can be divided by it grows with
the batch, everything else does not. So one run says what a step holds with any number of examples.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import LayerSelectError
from ..utils.saved_activations import SavedActivations
from .gpu_kernels import AsOnGPU

_PRIMES = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049, 1051, 1061)


@dataclass(frozen=True)
class Bytes:
    """A number of bytes that grows with the batch.

    Attributes:
        fixed: whatever the batch is.
        per_example: for each example of it.
    """

    fixed: int = 0
    per_example: int = 0

    def at(self, batch: int) -> int:
        """The bytes with ``batch`` examples."""
        return self.fixed + batch * self.per_example

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.fixed + other.fixed, self.per_example + other.per_example)

    def __sub__(self, other: Bytes) -> Bytes:
        return Bytes(self.fixed - other.fixed, self.per_example - other.per_example)


@dataclass(frozen=True)
class StepMemory:
    """What a step holds besides the weights.

    Attributes:
        gradients: of the parameters, when the backward pass has ended, in bytes.
        saved: what the forward pass keeps for the backward pass.
        by_layer: the part of it that belongs to each layer; what lies between two layers belongs to the upper one.
        moments: what is held at the moments that may be the fullest, whatever the batch is: gradients, what is saved,
            and what lives for a moment.
    """

    gradients: int
    saved: Bytes
    by_layer: tuple[Bytes, ...]
    moments: tuple[Bytes, ...]

    def peak(self, batch: int) -> int:
        """The most bytes that are held at one time, with ``batch`` examples."""
        return max((moment.at(batch) for moment in self.moments), default=0)


class Simulation:
    """Runs steps of a model without weights.

    Args:
        model: on the device ``meta``; its tensors are replaced by ones that pretend to stand on the CPU.
        layers: its blocks, in forward order.
        on_gpu: operations keep what they keep on a GPU: a dropout its mask in bytes, attention nothing of its dropout,
            norms under autocast their input in float32. Otherwise as on the CPU.
        length: in tokens, of the examples of the steps.

    Raises:
        LayerSelectError: no prime number of examples can be told from the sizes of the model.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], *, on_gpu: bool, length: int) -> None:
        self._model, self._layers, self._on_gpu = model, layers, on_gpu
        self.batch = _prime({length, *(size for tensor in _tensors(model) for size in tensor.shape)})
        self._mode = FakeTensorMode()
        with self._mode:
            _fill(model)

    def step(self, loss: Callable[[int], Tensor], *, passes: int = 1) -> StepMemory:
        """What a step of the model as it is now holds: the parameters that require a gradient take one.

        Args:
            loss: the loss of so many examples. What it makes are tensors without contents.
            passes: forward and backward passes in the step.

        Raises:
            LayerSelectError: the model reads numbers out of its tensors, and there are none.
        """
        held = _Held(_tensors(self._model), self.batch)
        kept = _SavedByLayer(_tensors(self._model), self._layers)
        with self._mode, self._as_there(), held, _quiet():
            for _ in range(passes):
                kept = _SavedByLayer(_tensors(self._model), self._layers)
                with kept:
                    value = loss(self.batch)
                _backward(value)
                del value
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        size = sum(gradient.untyped_storage().nbytes() for gradient in gradients)
        for parameter in self._model.parameters():
            parameter.grad = None
        by_layer = [Bytes() for _ in self._layers]
        saved = Bytes()
        for key, nbytes in kept.items():
            part = _split(nbytes, self.batch)
            saved += part
            if (layer := kept.layer_of[key]) < len(by_layer):
                by_layer[layer] += part
        return StepMemory(size, saved, tuple(by_layer), held.fullest())

    def _as_there(self) -> Any:
        return AsOnGPU() if self._on_gpu else nullcontext()


def _split(size: int, batch: int) -> Bytes:
    return Bytes(0, size // batch) if size % batch == 0 else Bytes(size, 0)


class _SavedByLayer(SavedActivations):
    """Notes for what is saved to which layer it belongs.

    What several layers keep (a mask) belongs to the uppermost of them, with which it stays, and what lies between two
    layers, or before the first, to the upper one. A layer that is computed again in the backward pass saves its inputs
    before it is called.
    """

    def __init__(self, exclude: Iterable[Tensor], layers: Sequence[nn.Module]) -> None:
        super().__init__(exclude)
        self._layers, self._now = layers, 0
        self.layer_of: dict[int, int] = {}
        self._handles: list[Any] = []

    def _pack(self, tensor: Tensor) -> Tensor:
        self.layer_of[tensor.untyped_storage()._cdata] = self._now
        return super()._pack(tensor)

    def __enter__(self) -> _SavedByLayer:
        for number, layer in enumerate(self._layers):
            begins, ends = partial(self._begins, number), partial(self._ends, number)
            self._handles.append(layer.register_forward_pre_hook(begins, with_kwargs=True))
            self._handles.append(layer.register_forward_hook(ends))
        super().__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        super().__exit__(*exc_info)
        for handle in self._handles:
            handle.remove()

    def _begins(self, number: int, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._now = number
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and (key := value.untyped_storage()._cdata) in self.layer_of:
                self.layer_of[key] = number

    def _ends(self, number: int, *_: Any) -> None:
        self._now = number + 1


class _Held(TorchDispatchMode):
    """Counts the storages that something holds, but for those that are there anyway."""

    def __init__(self, there: Iterable[Tensor], batch: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._batch = batch
        self._there = {tensor.untyped_storage()._cdata for tensor in there}
        self._watched: dict[int, weakref.ref[Any]] = {}
        self._fixed = self._per_example = 0
        #: For each number of bytes per example that was held at a time, the most others that were held with them.
        self._most: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._add(value)
        return made

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._there or key in self._watched:
            return
        size = _split(storage.nbytes(), self._batch)
        self._watched[key] = weakref.ref(storage, lambda _: self._drop(key, size))
        self._fixed += size.fixed
        self._per_example += size.per_example
        if self._most.get(self._per_example, -1) < self._fixed:
            self._most[self._per_example] = self._fixed

    def _drop(self, key: int, size: Bytes) -> None:
        del self._watched[key]
        self._fixed -= size.fixed
        self._per_example -= size.per_example

    def fullest(self) -> tuple[Bytes, ...]:
        """The moments of which one is the fullest, for each number of examples."""
        found: list[Bytes] = []
        for per_example, fixed in sorted(self._most.items(), reverse=True):
            moment = Bytes(fixed, per_example)
            while len(found) > 1 and _first(found[-2], moment) >= _first(found[-2], found[-1]):
                found.pop()  # never fuller than its neighbours
            if not found or _first(found[-1], moment) > 1:
                found.append(moment)
        return tuple(found)


def _first(growing: Bytes, other: Bytes) -> float:
    """Up to how many examples the other moment is fuller than one that grows more."""
    return (other.fixed - growing.fixed) / (growing.per_example - other.per_example)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's own pages about an operation that fails, which the error names."""
    logger = logging.getLogger(FakeTensorMode.__module__)
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _backward(loss: Tensor) -> None:
    """As ``loss.backward()``, which would switch a mode off until it has ended, also for layers that are computed
    again.
    """
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _fill(model: nn.Module) -> None:
    """Replaces the tensors of a model on ``meta``; what is shared stays shared."""
    made: dict[int, Tensor] = {}

    def like(tensor: Tensor) -> Tensor:
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(empty, requires_grad=tensor.requires_grad)
        return empty

    for module in model.modules():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for held in tables:
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = made.setdefault(id(tensor), like(tensor))


def _prime(sizes: Iterable[int]) -> int:
    """A number of examples that divides none of the sizes."""
    known = [size for size in sizes if size]
    for prime in _PRIMES:
        if all(size % prime for size in known):
            return prime
    raise LayerSelectError("every prime number that a batch could have divides a size of the model")
