"""Whether anybody moves weights outside the steps of the optimizers: a few numbers of each layer tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .. import _backend
from ..distributed.sharding import is_sharded

#: Of each layer so many parameters are looked at, the largest, and of each so many elements. A layer's small parameters
#: are left out on purpose: AdaLoRA masks those that hold its singular values, in the course of its own training.
_PARAMETERS, _ELEMENTS = 2, 4
#: So many looks are taken on a device, two in a step, where each costs some launches. On the CPU all are.
_LOOKS_ON_DEVICE = 40
#: The holder of what nobody holds.
_NOBODY = -1
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Witnesses:
    """Compares weights with what they were at the last look.

    It compares values. A counter of versions would miss what is written through ``.data``, and would take an average
    that was swapped in for an evaluation, and out again, for a change. Where the weights are on a device the host does
    not wait for the comparison, and hears of it at a later look. Sharded parameters are not looked at.

    Weights belong to holders, which may be looked at one by one: of many optimizers each only answers for its own.

    Args:
        layers: for each layer, its parameters.
        holder_of: the holder of a parameter, by the parameter's id; who is not in it is held by nobody.
    """

    def __init__(self, layers: Sequence[Sequence[nn.Parameter]], holder_of: Mapping[int, int] | None = None) -> None:
        self._witnesses = [(index, p) for index, parameters in enumerate(layers) for p in _largest(parameters)]
        self._left = _LOOKS_ON_DEVICE
        self.hold(holder_of or {})

    def hold(self, holder_of: Mapping[int, int]) -> None:
        """The weights have other holders. What was noted is forgotten."""
        self._holder_of = holder_of
        self._witnesses.sort(key=lambda pair: (holder_of.get(id(pair[1]), _NOBODY), pair[0]))
        self._holders = {holder_of.get(id(p), _NOBODY) for _, p in self._witnesses}
        self._noted: set[int] = set()
        self._take(self._cut())

    def note(self, holder: int | None = None) -> None:
        """Remembers the weights as they are, all or those of one holder."""
        only = self._only
        if only is not None and holder is not None:
            mine = only.ranges.get(holder)
            if mine is not None:
                only.marks_note(*mine)
                self._noted.add(holder)
            return
        for part in self._parts:
            if not part.follows(holder):
                self._noted.clear()
                self._take(self._cut())
                break
        if not self._watches():
            self._noted.clear()
            return
        if holder is None:
            self._noted |= self._holders
        elif holder in self._holders:
            self._noted.add(holder)
        for part in self._parts:
            part.note(holder)

    def forget(self) -> None:
        """What was noted is not to be compared: somebody was right to change the weights."""
        self._noted.clear()

    def moved(self, holder: int | None = None) -> int | None:
        """The first layer whose weights, all or those of one holder, are no longer what :meth:`note` saw. What was
        noted is forgotten by it.
        """
        only = self._only
        if only is not None and holder is not None:
            if holder not in self._noted:
                return None
            self._noted.discard(holder)
            place = only.marks_moved(*only.ranges[holder])
            return None if place < 0 else only.layers[place]
        if holder is None:
            noted, self._noted = self._noted, set()
        else:
            noted = self._noted & {holder}
            self._noted -= noted
        if not noted or not self._watches():
            return None
        self._left -= holder is None or len(self._holders) == 1
        for part in self._parts:
            if not part.follows(holder):  # the model was moved, or has another type now
                return None
        looks = [None] if noted == self._holders else sorted(noted)
        found = [part.moved(one) for part in self._parts for one in looks]
        return min((index for index in found if index is not None), default=None)

    def _watches(self) -> bool:
        if not self._on_device:
            return bool(self._parts)
        return self._left > 0 and not torch.cuda.is_current_stream_capturing()

    def _take(self, parts: list[_Part | _CompiledPart]) -> None:
        self._parts = parts
        self._on_device = any(part.on_device for part in parts)
        # With many optimizers each step of each looks twice, mostly at what the compiled core can read.
        self._only = parts[0] if len(parts) == 1 and isinstance(parts[0], _CompiledPart) else None

    def _cut(self) -> list[_Part | _CompiledPart]:
        native = _backend.native_module()
        by_python = ("cuda",) if native is not None else ("cpu", "cuda")
        kinds = dict.fromkeys((p.device, p.dtype) for _, p in self._witnesses if p.device.type in by_python)
        parts: list[_Part | _CompiledPart] = [
            _Part([(i, p) for i, p in self._witnesses if (p.device, p.dtype) == kind], self._holder_of)
            for kind in kinds
        ]
        on_cpu = [(i, p) for i, p in self._witnesses if p.device.type == "cpu"]
        if native is not None and on_cpu:
            parts.append(_CompiledPart(on_cpu, self._holder_of, native))
        return parts


class _Part:
    """The witnesses of one type on one device, those of a holder side by side."""

    def __init__(self, witnesses: Sequence[tuple[int, nn.Parameter]], holder_of: Mapping[int, int]) -> None:
        self._parameters = [p for _, p in witnesses]
        self._kind = (self._parameters[0].device, self._parameters[0].dtype)
        self.on_device = self._kind[0].type != "cpu"
        self._places = [p.data_ptr() for p in self._parameters]
        self._views = [_some_of(p) for p in self._parameters]
        self._layers = [index for (index, _), view in zip(witnesses, self._views, strict=True) for _ in view]
        self._ranges: dict[int | None, tuple[slice, slice]] = {None: (slice(None), slice(None))}
        element = 0
        for place, (p, view) in enumerate(zip(self._parameters, self._views, strict=True)):
            holder = holder_of.get(id(p), _NOBODY)
            first, first_element = self._ranges.get(holder, (slice(place, 0), slice(element, 0)))
            element += view.numel()
            self._ranges[holder] = (slice(first.start, place + 1), slice(first_element.start, element))
        self._before = torch.empty(element, dtype=self._kind[1], device=self._kind[0])
        self._flags: Tensor | None = None  # on a device: what differed in any comparison so far
        self._copied: Tensor | None = None  # on its way to the host
        self._event: Any = None

    def follows(self, holder: int | None) -> bool:
        """Looks at the memory that a holder's parameters have now; false if that is of another kind."""
        if holder not in self._ranges:
            return True
        mine, _ = self._ranges[holder]
        places = [p.data_ptr() for p in self._parameters[mine]]
        if places != self._places[mine]:  # data was replaced: the views still show the old
            if any((p.device, p.dtype) != self._kind for p in self._parameters[mine]):
                return False
            self._places[mine], self._views[mine] = places, [_some_of(p) for p in self._parameters[mine]]
        return True

    def note(self, holder: int | None) -> None:
        if holder in self._ranges:
            mine, elements = self._ranges[holder]
            torch.cat(self._views[mine], out=self._before[elements])

    def moved(self, holder: int | None) -> int | None:
        if holder not in self._ranges:
            return None
        mine, elements = self._ranges[holder]
        now, before = torch.cat(self._views[mine]), self._before[elements]
        if not self.on_device and torch.equal(now, before):
            return None
        # A NaN that stays one has not moved.
        differs = now.ne(before) & (now.eq(now) | before.eq(before))
        if self.on_device:
            return self._arrived(differs, elements)
        return self._first(differs.tolist(), elements.start or 0)

    def _first(self, differs: list[bool], start: int = 0) -> int | None:
        return min((self._layers[start + i] for i, one in enumerate(differs) if one), default=None)

    def _arrived(self, differs: Tensor, elements: slice) -> int | None:
        """What is known on the host by now; what is not is left for later."""
        if self._flags is None:
            self._flags = torch.zeros(len(self._layers), dtype=torch.bool, device=self._kind[0])
        self._flags[elements] |= differs
        found = None
        if self._copied is not None and self._event.query():
            found, self._copied = self._first(self._copied.tolist()), None
        if self._copied is None:
            self._copied = torch.empty(len(self._layers), dtype=torch.bool, pin_memory=True)
            with torch.cuda.device(self._kind[0]):
                self._copied.copy_(self._flags, non_blocking=True)
                self._event = torch.cuda.Event()
                self._event.record()
        return found


class _CompiledPart:
    """All witnesses on the CPU, read by the compiled core."""

    on_device = False

    def __init__(
        self, witnesses: Sequence[tuple[int, nn.Parameter]], holder_of: Mapping[int, int], native: ModuleType
    ) -> None:
        self.layers = [index for index, _ in witnesses]
        marks = native.WeightMarks([p for _, p in witnesses])
        self.marks_note, self.marks_moved = marks.note, marks.moved
        self.ranges: dict[int | None, tuple[int, int]] = {None: (0, len(witnesses))}
        for place, (_, p) in enumerate(witnesses):
            holder = holder_of.get(id(p), _NOBODY)
            self.ranges[holder] = (self.ranges.get(holder, (place, 0))[0], place + 1)

    def follows(self, holder: int | None) -> bool:
        """It reads whatever memory the parameters have."""
        return True

    def note(self, holder: int | None) -> None:
        if holder in self.ranges:
            self.marks_note(*self.ranges[holder])

    def moved(self, holder: int | None) -> int | None:
        mine = self.ranges.get(holder)
        place = -1 if mine is None else self.marks_moved(*mine)
        return None if place < 0 else self.layers[place]


def _largest(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    fit = [p for p in parameters if not is_sharded(p) and p.dtype in _DTYPES and p.numel() and p.is_contiguous()]
    return sorted(fit, key=lambda p: -p.numel())[:_PARAMETERS]


def _some_of(parameter: nn.Parameter) -> Tensor:
    """A view of some of its elements, side by side in the middle of the memory that it shares."""
    flat = parameter.detach().view(-1)
    return flat[(flat.numel() - 1) // 2 :][:_ELEMENTS]
