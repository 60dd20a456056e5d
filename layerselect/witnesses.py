"""Whether anybody moves weights outside the steps of the optimizers: a few numbers of each layer tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .sharding import is_spread

#: Of each layer so many parameters are looked at, the largest, and of each so many elements. A layer's small parameters are
#: left out on purpose: AdaLoRA masks those that hold its singular values, in the course of its own training.
_PARAMETERS, _ELEMENTS = 2, 4
#: So many looks are taken on a device, two in a step, where each costs some launches. On the CPU all are.
_LOOKS_ON_DEVICE = 40
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Witnesses:
    """Compares weights with what they were at the last look.

    It compares values. A counter of versions would miss what is written through ``.data``, and would take an average that was
    swapped in for an evaluation, and out again, for a change. Where the weights are on a device the host does not wait for the
    comparison, and hears of it at a later look. Sharded parameters are not looked at.

    Args:
        layers: for each layer, its parameters.
    """

    def __init__(self, layers: Sequence[Sequence[nn.Parameter]]) -> None:
        self._witnesses = [(index, p) for index, parameters in enumerate(layers) for p in _largest(parameters)]
        self._parts = self._cut()
        self._left = _LOOKS_ON_DEVICE
        self._noted = False

    def note(self) -> None:
        """Remembers the weights as they are."""
        if not all(part.follows() for part in self._parts):
            self._parts = self._cut()
        self._noted = self._watches()
        if self._noted:
            for part in self._parts:
                part.note()

    def forget(self) -> None:
        """What was noted is not to be compared: somebody was right to change the weights."""
        self._noted = False

    def moved(self) -> int | None:
        """The first layer whose weights are no longer what :meth:`note` saw. What was noted is forgotten by it."""
        noted, self._noted = self._noted, False
        if not noted or not self._watches():
            return None
        self._left -= 1
        if not all(part.follows() for part in self._parts):  # the model was moved, or has another type now
            return None
        found = [part.moved() for part in self._parts]
        return min((index for index in found if index is not None), default=None)

    def _watches(self) -> bool:
        if not self._parts or not any(part.on_device for part in self._parts):
            return bool(self._parts)
        return self._left > 0 and not torch.cuda.is_current_stream_capturing()

    def _cut(self) -> list[_Part]:
        kinds = dict.fromkeys((p.device, p.dtype) for _, p in self._witnesses if p.device.type in ("cpu", "cuda"))
        return [_Part([(i, p) for i, p in self._witnesses if (p.device, p.dtype) == kind]) for kind in kinds]


class _Part:
    """The witnesses of one type on one device."""

    def __init__(self, witnesses: Sequence[tuple[int, nn.Parameter]]) -> None:
        self._parameters = [p for _, p in witnesses]
        self._kind = (self._parameters[0].device, self._parameters[0].dtype)
        self.on_device = self._kind[0].type != "cpu"
        self._places = [p.data_ptr() for p in self._parameters]
        self._views = [_some_of(p) for p in self._parameters]
        self._owners = [index for (index, _), view in zip(witnesses, self._views, strict=True) for _ in view]
        self._before: Tensor | None = None
        self._flags: Tensor | None = None  # on a device: what differed in any comparison so far
        self._copied: Tensor | None = None  # on its way to the host
        self._event: Any = None

    def follows(self) -> bool:
        """Looks at the memory that the parameters have now; false if that is of another kind."""
        places = [p.data_ptr() for p in self._parameters]
        if places != self._places:  # data was replaced: the views still show the old
            if any((p.device, p.dtype) != self._kind for p in self._parameters):
                return False
            self._places, self._views = places, [_some_of(p) for p in self._parameters]
        return True

    def note(self) -> None:
        self._before = torch.cat(self._views)

    def moved(self) -> int | None:
        now, before = torch.cat(self._views), self._before
        assert before is not None
        if not self.on_device and torch.equal(now, before):
            return None
        # A NaN that stays one has not moved.
        differs = now.ne(before) & (now.eq(now) | before.eq(before))
        return self._arrived(differs) if self.on_device else self._first(differs.tolist())

    def _first(self, differs: list[bool]) -> int | None:
        return self._owners[differs.index(True)] if True in differs else None

    def _arrived(self, differs: Tensor) -> int | None:
        """What is known on the host by now; what is not is left for later."""
        self._flags = differs if self._flags is None else self._flags | differs
        found = None
        if self._copied is not None and self._event.query():
            found, self._copied = self._first(self._copied.tolist()), None
        if self._copied is None:
            self._copied = torch.empty(len(self._owners), dtype=torch.bool, pin_memory=True)
            with torch.cuda.device(self._kind[0]):
                self._copied.copy_(self._flags, non_blocking=True)
                self._event = torch.cuda.Event()
                self._event.record()
        return found


def _largest(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    fit = [p for p in parameters if not is_spread(p) and p.dtype in _DTYPES and p.numel() and p.is_contiguous()]
    return sorted(fit, key=lambda p: -p.numel())[:_PARAMETERS]


def _some_of(parameter: nn.Parameter) -> Tensor:
    """A view of some of its elements, side by side in the middle of the memory that it shares."""
    flat = parameter.detach().view(-1)
    return flat[(flat.numel() - 1) // 2 :][:_ELEMENTS]
