"""Mode ``gate`` decided by the device: the optimizer leaves unselected layers alone, and the host never learns
which.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .fused_gate import FusedGate
from .gate import Gate
from .gate import parameters_of as parameters_of
from .keeping_gate import KeepingGate
from .nonfinite import NonFinite
from .step_hooks import StepHooks

logger = logging.getLogger(__name__)

_FUSED = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)


def make_gate(
    optimizer: torch.optim.Optimizer,
    layers: Sequence[Sequence[nn.Parameter]],
    state: dict[str, Tensor],
    nonfinite: NonFinite | None = None,
    *,
    begin_all: bool = False,
    hooks: StepHooks | None = None,
) -> Gate:
    """Keeps ``optimizer`` away from unselected layers: :class:`FusedGate` where it can, else :class:`KeepingGate`.

    Args:
        layers: for each layer, its parameters.
        state: that of a :class:`layerselect.core.cuda.CudaCore`: the live ``gate`` and ``mask``.
        nonfinite: what is known of gradients that are not finite.
        begin_all: see :class:`KeepingGate`.
        hooks: see :class:`~layerselect.modes.gate.Gate`.
    """
    if takes_found_inf(optimizer):
        return FusedGate(optimizer, layers, state["gate"], nonfinite, hooks)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if len({parameter.device for parameters in (*layers, held) for parameter in parameters}) > 1:
        logger.warning("the parameters are on several devices, so every gated step waits for them: use fused=True")
        return Gate(optimizer, layers, state["mask"].tolist, nonfinite, hooks)
    return KeepingGate(optimizer, layers, state["gate"], state["mask"], nonfinite, hooks, begin_all=begin_all)


def takes_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Whether every group of ``optimizer`` runs a fused kernel that leaves all alone where ``found_inf`` is 1.

    ``SGD`` with momentum and dampening does not: its first step differs from the others, and the host would have to
    know which one is the first.
    """
    if type(optimizer) not in _FUSED:
        return False
    return all(
        group.get("fused") and not (group.get("momentum") and group.get("dampening"))
        for group in optimizer.param_groups
    )
