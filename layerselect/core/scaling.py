"""Scaled gradients: how much too large those of a step are, and whether the optimizer will skip it.

With float16 the loss is multiplied by a scale before the backward pass, so that small gradients survive; the optimizer
works with the gradients divided by it, and leaves out a step in which one of them is not finite
(``torch.amp.GradScaler``; Micikevicius et al., Mixed Precision Training, arXiv 1710.03740)::

    scaler.scale(loss).backward()
    selector.step(scaler)
    selector.clip_grad_norm_(1.0)  # if the gradients are to be clipped: they need not be unscaled for it
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler, OptState

from ..errors import LayerSelectError


@dataclass(frozen=True)
class Scaling:
    """What a step must know about scaled gradients. With it, a gradient that is not finite skips the step.

    Attributes:
        inv_scale: float32 [], what to multiply scaled gradients by; None where they are right as they are.
        unscaled: whether the gradients have been divided by the scale since the backward pass; None where only some
            have.
        found_inf: float32 [], not 0 where the scaler has found gradients that are not finite; None where it has not
            looked.
    """

    inv_scale: Tensor | None = None
    unscaled: bool | None = False
    found_inf: Tensor | None = None

    @property
    def written(self) -> bool:
        """Whether gradients have been written to since the backward pass; the versions of the tensors do not tell."""
        return self.unscaled is not False

    def factor(self, *, of_now: bool) -> Tensor | None:
        """What sums of squares are to be multiplied by the square of, float32 []; None: by nothing.

        Args:
            of_now: the sums are of the gradients as they are now, and not as the backward pass left them.

        Raises:
            LayerSelectError: some optimizers' gradients have been unscaled and others' not.
        """
        if not of_now or self.unscaled is False:
            return self.inv_scale
        if self.unscaled is None:
            raise LayerSelectError(
                "the gradients of some optimizers have been unscaled and those of others not: call selector.step() "
                "before all scaler.unscale_() calls, or after all of them"
            )
        return None

    def skips(self, total_norm: Tensor) -> Tensor:
        """``bool`` []: whether the optimizer skips the step with this norm of all gradients (float64 [])."""
        skipped = total_norm.isfinite().logical_not()
        return skipped if self.found_inf is None else skipped | (self.found_inf != 0)

    def on(self, device: torch.device) -> Scaling:
        """This scaling on another device; the host does not wait."""
        found = (None if t is None else t.to(device, non_blocking=True) for t in (self.inv_scale, self.found_inf))
        inv_scale, found_inf = found
        return replace(self, inv_scale=inv_scale, found_inf=found_inf)


@runtime_checkable
class Accelerator(Protocol):
    """What is read of an ``accelerate.Accelerator``.

    Attributes:
        sync_gradients: whether the gradients of all micro-batches are in, so that the optimizer really steps.
        scaler: that of ``mixed_precision="fp16"``.
    """

    sync_gradients: bool
    scaler: GradScaler | None


#: What a step may be told of its gradients.
GradScale = float | Tensor | GradScaler | None


def of_accelerator(given: GradScale | Accelerator) -> tuple[bool, GradScale]:
    """Whether the optimizer steps now, and what the gradients are scaled by: an accelerator knows both."""
    if isinstance(given, Accelerator):
        return given.sync_gradients, given.scaler
    return True, given


def read_scaling(
    grad_scale: GradScale, optimizers: Sequence[torch.optim.Optimizer], device: torch.device
) -> Scaling | None:
    """The scaling that ``grad_scale`` means for this step. No device is waited for.

    Args:
        grad_scale: a scaler, or the factor by which the gradients are too large: now as when the backward pass ended.
        optimizers: those whose gradients count; if there is none, all that the scaler has met since its last
            ``update()``.
        device: where the numbers are needed.

    Returns:
        None where no scaling is in force: no ``grad_scale``, or a scaler that is not enabled.

    Raises:
        LayerSelectError: it is none of these, not a positive number, or a scaler that has scaled nothing yet or has
            already stepped an optimizer.
    """
    if grad_scale is None:
        return None
    if isinstance(grad_scale, GradScaler):
        return _read_scaler(grad_scale, optimizers, device) if grad_scale.is_enabled() else None
    if isinstance(grad_scale, Tensor):
        if grad_scale.numel() != 1:
            raise LayerSelectError(f"grad_scale has {grad_scale.numel()} elements: give one number, or the GradScaler")
        return Scaling(_reciprocal(grad_scale.detach().reshape(()), device))
    if isinstance(grad_scale, bool) or not isinstance(grad_scale, (int, float)):
        raise LayerSelectError(f"grad_scale={grad_scale!r} is no number, Tensor or torch.amp.GradScaler")
    if not (math.isfinite(grad_scale) and grad_scale > 0):
        raise LayerSelectError(f"grad_scale={grad_scale!r} is not a positive number")
    return Scaling(torch.full((), 1.0 / grad_scale, dtype=torch.float32, device=device))


def _read_scaler(scaler: GradScaler, optimizers: Sequence[torch.optim.Optimizer], device: torch.device) -> Scaling:
    # get_scale() would wait for the device.
    scale: Tensor | None = scaler._scale
    if scale is None:
        raise LayerSelectError(
            "the GradScaler has scaled nothing yet: call scaler.scale(loss).backward() before selector.step(scaler)"
        )
    known: dict[int, dict[str, Any]] = scaler._per_optimizer_states
    states = [known.get(id(optimizer)) for optimizer in optimizers] if optimizers else list(known.values())
    stages = [OptState.READY if state is None else state["stage"] for state in states]
    if OptState.STEPPED in stages:
        raise LayerSelectError(
            "the GradScaler has already stepped the optimizer: call selector.step() before scaler.step(optimizer)"
        )
    unscaled = [stage is OptState.UNSCALED for stage in stages]
    some = any(unscaled)
    found = [
        value.to(device, non_blocking=True)
        for state in states
        if state is not None
        for value in state["found_inf_per_device"].values()
    ]
    return Scaling(
        _reciprocal(scale, device),
        None if some and not all(unscaled) else some,
        torch.stack(found).amax() if found else None,
    )


def _reciprocal(scale: Tensor, device: torch.device) -> Tensor:
    """Rounded once to float32, as the scaler itself does."""
    return scale.to(device=device, dtype=torch.float64, non_blocking=True).reciprocal().float()
