"""Not-a-number stays where it is: in a step with a gradient that is not finite, nothing finite is spoiled by it.

A layer whose gradient is not finite is not selected, and the optimizer leaves it alone. That is not enough where
gradients are clipped: one that is not finite makes the norm of all of them so, and clipping by that norm writes it into
every other one.

Where the host knows the selection, it sets the layer's gradients aside until ``optimizer.step()`` is over: what clips
meanwhile does not meet them. Where they have been spread already, or an outer parameter's own gradient is not finite,
nothing moves in that step. The host looks at the gradients about to be stepped, in such steps only. For a device it
decides from the sums that were measured and from what the host knows without asking: whether gradients were written to
since. No other step differs by a bit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from .. import _backend
from ..core.graph_capture import is_capturing
from ..distributed.sharding import held_here, is_sharded
from .seen_gradients import SeenGradients

logger = logging.getLogger(__name__)


class GradientMarks:
    """Whether somebody wrote to gradients, or put others in their place. Reads no gradient.

    Args:
        parameters: whose ``.grad`` is looked at.

    Attributes:
        mark: call it where the gradients are as they are to be stepped.
        moved: says whether anything was written to since then; True before the first mark. Gradients that were taken
            away do not count: what is not there is not stepped.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        # Of a DTensor the wrapper may be written to, or what it holds here.
        native = None if any(map(is_sharded, parameters)) else _backend.native_module()
        self._marks: list[tuple[int, int, int] | None] | None = None
        self.mark: Callable[[], None] = self._mark
        self.moved: Callable[[], bool] = self._moved
        if native is not None:
            marks = native.GradientMarks(list(parameters))
            self.mark, self.moved = marks.mark, marks.moved

    def _mark(self) -> None:
        self._marks = list(map(_mark, self._parameters))

    def _moved(self) -> bool:
        if self._marks is None:
            return True
        for parameter, mark in zip(self._parameters, self._marks, strict=True):
            if parameter.grad is not None and _mark(parameter) != mark:
                return True
        return False


class NonFinite:
    """What is known of gradients that are not finite in the step that was measured last.

    Args:
        state: the core's live ``group_sums`` and ``total_norm``, and ``gate`` where a device decides.
        num_layers: L.
        outer: the outer parameters.
        seen: the selector's: where its steps are replayed, nothing is kept from one step of an optimizer to the next.
        on_device: whether a device decides, for which the host must not wait.
    """

    def __init__(
        self,
        state: dict[str, Tensor],
        num_layers: int,
        outer: Sequence[nn.Parameter],
        seen: SeenGradients,
        *,
        on_device: bool,
    ) -> None:
        self._state, self._length = state, num_layers
        self._seen = seen
        self._sums, self._total = state["group_sums"], state["total_norm"]
        self._outer = outer
        self._on_device = on_device
        self._flagged = False
        self._to_be_skipped = self._written = False
        self._outer_is_bad: bool | None = None
        self._poison: dict[bool, Tensor] = {}
        self._gate = state["gate"] if on_device else self._sums
        self._stops: dict[bool, Stops] = {}
        self._counted = not self._gate.is_cuda and not self._gate.is_inference()  # nobody writes to it unseen
        self._warned: set[str] = set()

    def measured(self, *, may_skip: bool, written: bool = False) -> list[int]:
        """Takes note of a step that the core has just measured.

        Args:
            may_skip: whether gradients are scaled, so that one that is not finite makes the optimizer skip the step.
            written: whether gradients were written to between the backward pass, whose gradients were measured, and
                now.

        Returns:
            The layers whose gradients are to be set aside until the optimizer has stepped; none where a device decides.
        """
        self._outer_is_bad = None
        self._to_be_skipped = may_skip
        self._written = written
        self.forget()
        bad = not_finite(self._state, on_device=self._on_device)
        self._flagged = bool(bad)
        # A scaler has to see them: it skips the step and lowers its scale.
        return [] if may_skip else [layer for layer in bad if layer < self._length]

    def forget(self) -> None:
        """The selection and the sums are others now."""
        self._poison.clear()
        self._stops.clear()

    @property
    def matters(self) -> bool:
        """Whether it matters that gradients are written to before the step: some was not finite, or the host is not
        told.
        """
        return self._on_device or self._flagged

    # ------------------------------------------------------------------ for gates of the host

    def flagged(self) -> bool:
        """Whether some gradient was not finite. Waits for the device where one decides."""
        return not math.isfinite(self._total.item()) if self._on_device else self._flagged

    def spoils(self, stepped: Iterable[nn.Parameter], moved: bool) -> bool:
        """Whether a step over these parameters would spoil something. Asked in a flagged step only; may wait.

        Args:
            stepped: what the optimizer is about to step.
            moved: whether its gradients were written to since they were measured.
        """
        stepped = [p for p in stepped if p.grad is not None]
        if not stepped:
            return False
        if any(map(is_sharded, (*stepped, *self._outer))):
            # Every process has to come to the same answer, and holds other parts.
            bad = self.poison(moved).item() > 0
            self._say("spread" if bad else None)
            return bad
        if self._outer_is_bad is None:
            self._outer_is_bad = not self._sums[-1].isfinite().item() and not _finite(self._outer)
        if self._outer_is_bad:
            everywhere = not self._sums.isfinite().any().item()  # as clipping before the measurement leaves it
            self._say("spread" if moved or everywhere else "outer")
            return True
        # A norm that is infinite makes every other gradient 0.
        bad = not _finite(stepped) or _all_zero(stepped)
        self._say("spread" if bad else None)
        return bad

    # ------------------------------------------------------------------ for gates of a device

    def poison(self, moved: bool) -> Tensor:
        """float32 [], on the device: 1 where nothing may move in the coming step, else 0. ``moved``: as for
        :meth:`spoils`.
        """
        spread = self._to_be_skipped or self._written or moved
        known = self._poison.get(spread)
        if known is None:
            known = self._poison[spread] = self._decide(spread)
        return known

    def stops(self, moved: bool) -> Stops:
        """What is left alone in the coming step: found once for all optimizers that step on one stream. ``moved``: as
        for :meth:`spoils`.
        """
        gate, known = self._gate, self._stops.get(moved)
        if known is not None and self._counted and not self._seen.replayed and known.version == gate._version:
            return known
        stream = torch.cuda.current_stream(gate.device) if gate.is_cuda else None
        if known is not None and self._may_keep() and known.version == version_of(gate) and known.stream == stream:
            return known
        poison = self._decide(self._to_be_skipped or self._written or moved)
        known = Stops(poison, torch.maximum(gate, poison), version_of(gate), stream)
        if self._may_keep():
            self._stops[moved] = known
        return known

    def _may_keep(self) -> bool:
        """Whether the host sees whatever becomes of the selection: not where steps are replayed."""
        return not self._seen.replayed and not is_capturing(self._gate.device)

    def _decide(self, spread: bool) -> Tensor:
        if spread:
            return _is_bad(self._total)
        # Measured after it was clipped by an infinite norm, which makes every other gradient 0: nothing else is left.
        left = torch.nan_to_num(self._sums, nan=0.0, posinf=0.0).sum()
        return torch.maximum(_is_bad(self._sums[-1]), _is_bad(self._total) * (left == 0.0))

    def _say(self, what: str | None) -> None:
        if what is None or what in self._warned:
            return
        self._warned.add(what)
        if what == "outer":
            logger.warning(
                "the gradient of a parameter outside the layers is not finite, so nothing moves in this step, nor in "
                "others like it"
            )
        else:
            logger.warning(
                "a layer's gradient is not finite, and gradients were clipped by a norm with it in it, so nothing "
                "moves in this step, nor in others like it: clip after selector.step(), or with "
                "selector.clip_grad_norm_(), and only that layer is left out"
            )


class Stops:
    """What a device leaves alone in a step.

    Attributes:
        everything: float32 []: 1 where nothing may move.
        gate: float32 [L + 1]: 1 where nothing of the layer may, for that or because it is not selected.
        numbers: float32 [] for each layer, views of its number.
        version, stream: of what it was made, and where.
    """

    def __init__(self, everything: Tensor, gate: Tensor, version: int, stream: torch.cuda.Stream | None) -> None:
        self.everything, self.gate = everything, gate
        self.version, self.stream = version, stream
        self.numbers = gate.unbind()


def not_finite(state: dict[str, Tensor], *, on_device: bool) -> list[int]:
    """The layers (L: the outer parameters) whose gradients were not finite, where the host can know; none where a
    device decides.
    """
    if on_device or math.isfinite(state["total_norm"].item()):
        return []
    return (~state["group_sums"].isfinite()).nonzero().flatten().tolist()


def _mark(parameter: nn.Parameter) -> tuple[int, int, int] | None:
    """What changes with every write to the gradient."""
    gradient = parameter.grad
    if gradient is None:
        return None
    here = held_here(gradient)
    return id(gradient), version_of(gradient), 0 if here is gradient else version_of(here)


def version_of(tensor: Tensor) -> int:
    """How often it was written to; -1 where nobody counts."""
    return -1 if tensor.is_inference() else tensor._version


def _is_bad(number: Tensor) -> Tensor:
    """float32 [], on the device: 1 where it is not finite, else 0."""
    return torch.nan_to_num(number * 0.0, nan=1.0).float()


def _all_zero(parameters: Iterable[nn.Parameter]) -> bool:
    return not any(values.any().item() for values in _values(parameters))


def _finite(parameters: Iterable[nn.Parameter]) -> bool:
    return all(values.isfinite().all().item() for values in _values(parameters))


def _values(parameters: Iterable[nn.Parameter]) -> Iterator[Tensor]:
    """The numbers of their gradients, as far as this process holds them."""
    for parameter in parameters:
        if parameter.grad is not None:
            here = held_here(parameter.grad)
            yield here._values() if here.is_sparse else here
