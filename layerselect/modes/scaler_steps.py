"""A ``GradScaler`` and an optimizer that a selection leaves without a gradient.

``scaler.step(optimizer)`` demands that it has looked at a gradient of that optimizer, and ``scaler.update()`` that it
has looked at any. In mode ``freeze`` an optimizer may have none: nothing of it is selected, or what is took no gradient
in this step. Such a step changes nothing, and the scaler is to pass over it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.amp.grad_scaler import GradScaler, OptState

from .gate import Gate


def leave_something(scaler: GradScaler, gates: Iterable[Gate]) -> None:
    """Gives the scaler something to look at in every optimizer that has no gradient left: zeros that the gate keeps
    from the step, or, where it has looked already and found nothing to look at, what it would have found in zeros.

    Args:
        scaler: in use, before its ``step()``.
        gates: of the attached optimizers.
    """
    if not scaler.is_enabled():
        return
    for gate in gates:
        state = scaler._per_optimizer_states.get(id(gate.optimizer))
        if state is None or state["stage"] is OptState.READY:
            gate.leave_one()
        elif not state["found_inf_per_device"]:
            device = gate.optimizer.param_groups[0]["params"][0].device
            state["found_inf_per_device"] = {device: torch.zeros((), dtype=torch.float32, device=device)}
