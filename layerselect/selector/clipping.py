"""Clipping the gradients by a norm that the selector has measured already."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..core.base import Core
from ..distributed.sharding import held_here
from ..errors import LayerSelectError
from ..layers.find import LayeredParameters

# As torch.nn.utils.clip_grad_norm_ has it.
_EPSILON = 1e-6


class Clipping:
    """Multiplies the gradients of a step by min(1, max_norm / (norm + 1e-6)), once in a step, and reads none of them
    before.

    A norm that is not finite does what it does in ``torch.nn.utils.clip_grad_norm_``: an infinite one makes every
    finite gradient 0, and one that is NaN makes all of them NaN. :func:`norm_to_clip` gives such a one in mode
    ``observe`` only.
    """

    def __init__(self) -> None:
        self._measured: weakref.ref[Tensor] | None = None
        self._nothing_left = False

    def allow(self, found: LayeredParameters) -> None:
        """The gradients of these parameters have just been measured."""
        first = next(_gradients(found), None)
        self._measured = None if first is None else weakref.ref(first)
        self._nothing_left = first is None

    @torch.no_grad()
    def clip(self, found: LayeredParameters, max_norm: float, norm: Tensor, spare: Sequence[int] = ()) -> None:
        """Clips in place. The host waits for no device.

        Args:
            found: the parameters whose gradients are clipped.
            max_norm: what the norm is to be at most.
            norm: float64 [], on any device: of the whole gradients, also where this process holds but parts of them.
            spare: the layers (L: the outer parameters) whose gradients are left as they are.

        Raises:
            LayerSelectError: ``max_norm`` is negative or no number, or these gradients were not measured, or clipped
                before.
        """
        if isinstance(max_norm, bool) or not isinstance(max_norm, (int, float)) or not max_norm >= 0.0:
            raise LayerSelectError(f"max_norm={max_norm!r} is not a number of at least 0")
        first = next(_gradients(found), None)
        # Where the step left no gradient at all, there is nothing to clip, and nothing wrong with asking for it.
        as_measured = self._nothing_left if first is None else self._measured is not None and self._measured() is first
        if not as_measured:
            raise LayerSelectError(
                "clip_grad_norm_() needs the norm of these gradients: call it once in a step, after selector.step() "
                "and before optimizer.step()"
            )
        self._measured, self._nothing_left = None, False
        coefficient = (max_norm / (norm + _EPSILON)).clamp(max=1.0)
        gradients: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for gradient in _gradients(found, spare):
            held = held_here(gradient)
            gradients.setdefault((held.device, held.dtype), []).append(held)
        for (device, dtype), some in gradients.items():
            # Of their own type, or every gradient is a launch of its own. Small coefficients do not fit float16.
            kind = torch.float32 if dtype == torch.float16 else dtype
            torch._foreach_mul_(some, coefficient.to(device=device, dtype=kind, non_blocking=True))


def norm_to_clip(core: Core, found: LayeredParameters, mode: str) -> Tensor:
    """The norm of the gradients that count for clipping, float64 [].

    ``observe``: of all of them, since all are stepped. ``gate``: of all that are finite, layer by layer. ``freeze``: of
    those that the optimizer will use. What is not finite, of a layer or of all outer parameters together, is never
    stepped, and counts in neither.
    """
    total, sums = core.state["total_norm"], core.state["group_sums"]
    if mode == "observe":
        return total.clone()
    finite = sums.isfinite()
    if mode == "gate":
        return torch.where(total.isfinite(), total, torch.where(finite, sums, 0.0).sum().sqrt())
    if core.decides_on_device:
        left = core.state["gate"] == 0
    else:
        layers = [any(p.grad is not None for _, p in layer) for layer in found.layers]
        left = torch.tensor([*layers, True], device=sums.device)
    return torch.where(left & finite, sums, 0.0).sum().sqrt()


def _gradients(found: LayeredParameters, spare: Sequence[int] = ()) -> Iterator[Tensor]:
    for index, layer in enumerate((*found.layers, found.outer)):
        if index not in spare:
            for _, parameter in layer:
                if parameter.grad is not None:
                    yield parameter.grad
