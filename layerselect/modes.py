"""What ``mode="auto"`` and ``capture="auto"`` mean for a given model."""

from __future__ import annotations

import logging

import torch
from torch import nn

from .errors import LayerSelectError

logger = logging.getLogger(__name__)

MODES = ("observe", "gate", "freeze")
CAPTURES = ("backward", "step")


def resolve_mode(mode: str, model: nn.Module) -> str:
    """``"auto"`` freezes where one process trains eagerly and gates elsewhere: under ``torch.compile`` a change of
    ``requires_grad`` recompiles, and distributed engines expect the same parameters in every step."""
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
    """``"auto"`` measures in the backward pass unless the gradient becomes final only after it."""
    if capture != "auto":
        if capture not in CAPTURES:
            raise LayerSelectError(f"capture={capture!r} is none of 'auto', {', '.join(map(repr, CAPTURES))}")
        return capture
    return "step" if _is_distributed(model) else "backward"


def resolve_lag(lag: int | None, device: torch.device) -> int:
    """``None`` is 0 where the host knows a selection at once, and 1 where it would have to wait."""
    if lag is None:
        return 0 if device.type == "cpu" else 1
    if not isinstance(lag, int) or isinstance(lag, bool) or lag < 0:
        raise LayerSelectError(f"lag={lag!r} is not a whole number of at least 0")
    return lag


def _why_not_freeze(model: nn.Module) -> str | None:
    if _is_distributed(model):
        return "the gradients are reduced across processes"
    if isinstance(model, torch._dynamo.OptimizedModule) or any(
        getattr(module, "_compiled_call_impl", None) is not None for module in model.modules()
    ):
        return "the model is compiled, and every change of what trains would compile it again"
    return None


def _is_distributed(model: nn.Module) -> bool:
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return True
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size() > 1
    return False
