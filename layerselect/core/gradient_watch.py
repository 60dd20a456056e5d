"""Which gradients were measured, at which moment, and which of them still have to be.

A gradient is measured when the backward pass that made it has ended. What is done to it in place afterwards (clipping,
unscaling) is not followed. :meth:`GradientWatch.finish` measures what was missed: gradients assigned by hand, hooks
that had died, a backward pass that broke off.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from torch import Tensor

from ..distributed.sharding import held_here
from .backward_end import BackwardEnd


@dataclass(frozen=True)
class _Identity:
    """Which gradient was measured, and in which state."""

    tensor: weakref.ref[Tensor]
    address: int
    version: int

    @classmethod
    def of(cls, gradient: Tensor) -> _Identity:
        held = held_here(gradient)
        return cls(weakref.ref(gradient), held.data_ptr(), _version(gradient, held))


class _Match(Enum):
    """How a gradient relates to the one that was measured."""

    SAME = auto()
    WRITTEN = auto()  #: the same, but written to since
    OTHER = auto()


_UNKNOWN = None
_NO_GRADIENT = ()


class GradientWatch:
    """Hands gradients to ``measure`` at the right moment.

    Args:
        parameters: leaves, referred to weakly.
        groups: the group of each.
        num_groups: how many groups there are.
        measure: a method, referred to weakly: takes the numbers of parameters whose gradients (or their absence) are to
            be measured now. A ``ValueError`` that it raises in a backward pass is raised again in :meth:`finish`.
        by_engine: says whether an engine makes the gradients final (averages them, or puts shards in their place),
            perhaps in memory that shows no trace of it, and perhaps also those of parameters that took none in this
            process. Then everything is measured when a backward pass has ended, and not only the groups that took
            gradients in it.

    Attributes:
        late: after :meth:`finish`, the parameters whose gradients were measured in it, as they were then.
        fired: after :meth:`finish`, whether a backward pass gave any of the parameters a gradient in this step.
        taken: after :meth:`finish`, whether a gradient was gone when its backward pass ended: somebody takes it in
            there.
        touched: after :meth:`finish`, the groups that took gradients in this step, or may have: some of their hooks had
            died.
        computed: groups measured when backward passes ended, in the last step.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        groups: Sequence[int],
        num_groups: int,
        measure: Callable[[list[int]], None],
        *,
        by_engine: Callable[[], bool] = lambda: False,
    ) -> None:
        self.late: list[int] = []
        self.fired = False
        self.taken = self._taken_now = False
        self.touched: set[int] = set()
        self.computed = 0
        self._computed_now = 0
        self._measured_now: set[int] = set()  # groups, when backward passes ended
        self._measure = weakref.WeakMethod(measure)
        self._by_engine = by_engine
        self._parameters = [weakref.ref(p) for p in parameters]
        self._group_of = list(groups)
        self._members: list[list[int]] = [[] for _ in range(num_groups)]
        for index, group in enumerate(groups):
            self._members[group].append(index)
        self._known: list[_Identity | tuple[()] | None] = [_UNKNOWN] * len(parameters)
        self._end = BackwardEnd(parameters, self._on_backward_end)

    @property
    def rearmed(self) -> int:
        """How many hooks had died and were put back, since the beginning."""
        return self._end.rearmed

    def parameter(self, index: int) -> Tensor | None:
        """A parameter; None where it is gone."""
        return self._parameters[index]()

    def gradient(self, index: int) -> Tensor | None:
        """The gradient of a parameter; None where it has none, or is gone."""
        parameter = self._parameters[index]()
        return None if parameter is None else parameter.grad

    def finish(self, written: bool = False, *, anew: bool = False) -> list[int]:
        """Closes a step: every gradient that is there has been measured afterwards.

        Args:
            written: gradients were written to since the backward pass, perhaps without a trace: the versions of tensors
                that a ``GradScaler`` unscales stay as they are.
            anew: measures everything as it is now.

        Returns:
            The groups in which at least one parameter has a gradient.
        """
        with self._end.lock:
            missed, self._end.pending = self._end.pending, set()
            fired, rearmed = self._end.look()
            self.fired = len(fired) > 0
            self.taken, self._taken_now = self._taken_now, False
            self.computed, self._computed_now = self._computed_now, 0
            self.touched = {self._group_of[index] for index in (*fired, *rearmed)}
            seen = self._measured_now | {self._group_of[index] for index in fired}
            self._measured_now = set()
            with_gradient: set[int] = set()
            gone: list[int] = []
            self.late = []
            for index, group in enumerate(self._group_of):
                gradient = self.gradient(index)
                match = self._match(index, gradient)
                if gradient is None:
                    if match is _Match.OTHER:
                        gone.append(index)
                    continue
                with_gradient.add(group)
                # No backward pass is known to have touched this group: what was measured of it may be of an earlier
                # step.
                changed = group not in seen and (written or match is _Match.WRITTEN)
                if anew or match is _Match.OTHER or changed or index in missed:
                    self.late.append(index)
            # A group that is frozen as a whole keeps what was measured of it.
            gone = [i for i in gone if self._group_of[i] in with_gradient or self._trains(self._group_of[i])]
            self._measure_now(sorted([*gone, *self.late]))
            return sorted(with_gradient)

    def measured(self, with_gradient: Sequence[int], sqnorms: Tensor) -> list[int]:
        """The groups ``with_gradient``, less those that no backward pass has touched and whose gradients are all zero:
        they are what ``zero_grad(set_to_none=False)`` leaves.

        Args:
            with_gradient: from :meth:`finish`.
            sqnorms: float64 [P] on the CPU, the sum of squares of each parameter's gradient.
        """
        doubtful = set(with_gradient) - self.touched
        values = sqnorms.tolist() if doubtful else []
        zero = {group for group in doubtful if all(values[index] == 0.0 for index in self._members[group])}
        return [group for group in with_gradient if group not in zero]

    def written(self) -> bool:
        """Whether a gradient was written to in place, or replaced, since it was measured. Nothing waits for a
        device.
        """
        with self._end.lock:
            for index in range(len(self._parameters)):
                gradient = self.gradient(index)
                if gradient is not None and self._match(index, gradient) is not _Match.SAME:
                    return True
            return False

    def close(self) -> None:
        """Removes every hook."""
        self._end.close()

    def _trains(self, group: int) -> bool:
        alive = (self._parameters[index]() for index in self._members[group])
        return any(parameter is not None and parameter.requires_grad for parameter in alive)

    def _match(self, index: int, gradient: Tensor | None) -> _Match:
        known = self._known[index]
        if gradient is None:
            return _Match.SAME if known == _NO_GRADIENT else _Match.OTHER
        if not isinstance(known, _Identity) or known.tensor() is not gradient:
            return _Match.OTHER
        held = held_here(gradient)
        if known.address != held.data_ptr():
            return _Match.OTHER
        return _Match.SAME if known.version == _version(gradient, held) else _Match.WRITTEN

    def _on_backward_end(self, fired: set[int]) -> None:
        self._taken_now = self._taken_now or any(self.gradient(i) is None for i in fired)
        if self._by_engine():
            everything = range(len(self._parameters))
            due = [i for i in everything if self.gradient(i) is not None or self._match_now(i) is not _Match.SAME]
            groups = {self._group_of[i] for i in due}
        else:
            groups = {self._group_of[i] for i in fired}
            members = (i for group in sorted(groups) for i in self._members[group])
            due = [i for i in members if i in fired or self._match_now(i) is not _Match.SAME]
        try:
            self._measure_now(due)
        except ValueError:
            # Must not break the user's backward pass: finish() meets the same error and raises it.
            self._end.pending |= fired
        else:
            self._computed_now += len(groups)
            self._measured_now |= groups

    def _match_now(self, index: int) -> _Match:
        return self._match(index, self.gradient(index))

    def _measure_now(self, due: list[int]) -> None:
        measure = self._measure()
        if not due or measure is None:
            return
        for index in due:
            self._known[index] = _UNKNOWN
        gradients = [self.gradient(index) for index in due]
        measure(due)
        for index, gradient in zip(due, gradients, strict=True):
            self._known[index] = _NO_GRADIENT if gradient is None else _Identity.of(gradient)


def _version(gradient: Tensor, held: Tensor) -> int:
    """Grows with every write, whether it goes through the ``DTensor`` or through what this process holds of it."""
    if gradient.is_inference():  # has no version
        return 0
    return gradient._version if held is gradient else gradient._version + held._version
