"""Sums of squares of gradients, taken by Python hooks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..core.gradient_watch import GradientWatch
from .norms import sqnorms


class GradientMonitor:
    """Sums of squares of gradients, up to date when a backward pass ends.

    Same semantics as the compiled one. A hook on each parameter notes that its group has a new gradient; when the
    backward pass ends, the groups noted are computed (the compiled one computes a group as soon as it is complete).
    A hook may be missed: :meth:`finish` computes what the hooks did not, and no more. A sum is that of the
    gradient as the backward pass left it; gradients written to in place afterwards (clipping) are not followed.
    Parameters are referred to weakly; the compiled monitor holds them until it is closed.

    Args:
        parameters: leaves of floating point dtype, with or without ``requires_grad``.
        groups: the group (layer) of each, in ``0..num_groups-1``.
        num_groups: how many groups there are.
        owner: an object (the model) with whose end the monitor is closed.

    Attributes:
        sqnorms: float64 [P] on the CPU, the sum of squares of each parameter's gradient, live.
        late: after :meth:`finish`, the parameters that it computed: their sums are of the gradients as they were then,
            and not as the backward pass left them.
        fired: after :meth:`finish`, whether a backward pass gave any parameter a gradient in this step.
        rearmed: how many hooks had died and were put back, since the beginning.
        computed_in_backward: group sums computed while backward passes ran in the last step.
    """

    def __init__(
        self, parameters: Sequence[Tensor], groups: Sequence[int], num_groups: int, owner: object = None
    ) -> None:
        if len(groups) != len(parameters):
            raise ValueError(
                f"groups has {len(groups)} entries for {len(parameters)} parameters; give one group for each"
            )
        if num_groups < 0:
            raise ValueError(f"num_groups is {num_groups}; it must not be negative")
        for i, (p, g) in enumerate(zip(parameters, groups, strict=True)):
            if not 0 <= g < num_groups:
                raise ValueError(f"groups[{i}] is {g}; it must be in 0..{num_groups - 1}")
            if not p.is_leaf:
                raise ValueError(f"parameters[{i}] is not a leaf: only leaves accumulate gradients")
            if not p.is_floating_point():
                raise ValueError(f"parameters[{i}] has dtype {p.dtype}; only floating point parameters have gradients")
        self.sqnorms = torch.zeros(len(parameters), dtype=torch.float64)
        self._closed = False
        self._watch = GradientWatch(parameters, groups, num_groups, self._compute)
        self._owner = None if owner is None else weakref.ref(owner, _closer(weakref.ref(self)))

    @property
    def late(self) -> list[int]:
        return self._watch.late

    @property
    def fired(self) -> bool:
        return self._watch.fired

    @property
    def taken(self) -> bool:
        return self._watch.taken

    @property
    def rearmed(self) -> int:
        return self._watch.rearmed

    @property
    def computed_in_backward(self) -> int:
        return self._watch.computed

    def finish(self, written: bool = False) -> list[int]:
        """Closes a step: ``sqnorms`` holds the sum of every gradient there is.

        A parameter without a gradient counts 0, except in a group in which nothing requires or has one: it keeps its
        sums.

        Args:
            written: gradients were written to since the backward pass, perhaps without a trace: the versions of tensors
                that a ``GradScaler`` unscales stay as they are.

        Returns:
            The groups in which at least one parameter has a gradient. Gradients that are all zero, in a group that no
            backward pass has touched, are none.

        Raises:
            ValueError: the monitor is closed, or a gradient cannot be summed (it is sparse, say).
        """
        if self._closed:
            raise ValueError("the gradient monitor is closed; make a new one")
        return self._watch.measured(self._watch.finish(written), self.sqnorms)

    def written(self) -> bool:
        """Whether a gradient was written to in place, or replaced, since it was computed."""
        return self._watch.written()

    def close(self) -> None:
        """Removes every hook. ``sqnorms`` keeps its values."""
        self._closed = True
        self._watch.close()

    def _compute(self, due: list[int]) -> None:
        gradients = [self._watch.gradient(i) for i in due]
        self.sqnorms[due] = sqnorms(gradients, [f"the gradient of parameter {i}" for i in due])


def _closer(monitor: weakref.ref[GradientMonitor]) -> Callable[[object], None]:
    def close(_: object) -> None:
        alive = monitor()
        if alive is not None:
            alive.close()

    return close
