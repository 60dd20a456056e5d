"""What ``mode="auto"`` and ``capture="auto"`` mean for a given model."""

from __future__ import annotations

import logging

import torch
from torch import nn

from ..distributed.engines import check_freezing, why_final_late
from ..errors import LayerSelectError
from ..utils.arguments import check_whole
from .compiled import compiled_autograd_on, is_compiled
from .needs_all_gradients import why_all_gradients

logger = logging.getLogger(__name__)

MODES = ("observe", "gate", "freeze")
CAPTURES = ("backward", "step")
#: Each step of it has a selection on the host.
_MOST_LAG = 10_000


def resolve_mode(mode: str, model: nn.Module) -> str:
    """``"auto"`` freezes where one process trains eagerly and gates elsewhere: under ``torch.compile`` a change of
    ``requires_grad`` recompiles, and ``DistributedDataParallel`` expects the same parameters in every step.

    Raises:
        LayerSelectError: an unknown mode, or ``"freeze"`` where the model's engine does not stand it.
    """
    if mode == "freeze":
        check_freezing(model)
        reason = why_all_gradients(model)
        if reason:
            raise LayerSelectError(
                f"mode='freeze' computes no gradients of unselected layers, but {reason}: use mode='gate'"
            )
    if mode != "auto":
        if mode not in MODES:
            raise LayerSelectError(f"mode={mode!r} is none of 'auto', {', '.join(map(repr, MODES))}")
        return mode
    reason = _why_not_freeze(model)
    if reason:
        logger.info("mode 'auto' means 'gate' here: %s", reason)
        return "gate"
    logger.info("mode 'auto' means 'freeze' here: a single process that trains eagerly")
    return "freeze"


def resolve_capture(capture: str, model: nn.Module) -> str:
    """``"auto"`` measures in the backward pass unless the gradient becomes final only after it.

    Raises:
        LayerSelectError: an unknown capture, or ``"backward"`` where the hooks would see gradients that are not final.
    """
    reason = why_final_late(model)
    if compiled_autograd_on():
        reason = reason or "compiled autograd cannot run hooks in C++"
    if capture != "auto":
        if capture not in CAPTURES:
            raise LayerSelectError(f"capture={capture!r} is none of 'auto', {', '.join(map(repr, CAPTURES))}")
        if capture == "backward" and reason:
            raise LayerSelectError(
                f"capture='backward' cannot measure the right gradients here, for {reason}: use capture='step'"
            )
        if capture == "backward" and compiled_autograd_on():
            raise LayerSelectError(
                "capture='backward' measures with hooks in C++, which compiled autograd cannot run: use "
                "capture='step', or switch compiled autograd off"
            )
        return capture
    return "step" if reason or compiled_autograd_on() else "backward"


def resolve_lag(lag: int | None, device: torch.device) -> int:
    """``None`` is 0 where the host knows a selection at once, and 1 where it would have to wait."""
    if lag is None:
        return 0 if device.type == "cpu" else 1
    check_whole("lag", lag, high=_MOST_LAG)
    return lag


def _why_not_freeze(model: nn.Module) -> str | None:
    reason = why_final_late(model)
    if reason:
        return reason
    if is_compiled(model):
        return "the model is compiled, and every change of what trains would compile it again"
    return why_all_gradients(model)
