"""The state of parameters that an optimizer steps for the first time, begun before that step."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from torch import nn

#: Optimizers of torch that begin a parameter's state with zeros, by a method that does nothing else.
_BEGIN_WITH_ZEROS = tuple(
    getattr(torch.optim, name)
    for name in ("Adam", "AdamW", "Adamax", "RAdam", "RMSprop", "Adadelta", "Adafactor", "Muon")
    if hasattr(torch.optim, name)
)


def begin_state(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> bool:
    """Gives these parameters the state that the first step would give them, before it. A step that is taken back on a
    device leaves that state, which is as good as none: zeros, and step count 0.

    Returns:
        Whether that is so for this optimizer. If not, nothing was done.
    """
    if type(optimizer) is torch.optim.SGD:
        if any(group["momentum"] and group["dampening"] for group in optimizer.param_groups):
            return False  # its first step is of another kind
        start_momentum(optimizer, parameters)
        return True
    if type(optimizer) not in _BEGIN_WITH_ZEROS:
        return False
    begin = optimizer._init_group  # type: ignore[attr-defined]  # of the classes above, not of the base
    lists = list(inspect.signature(begin).parameters)[1:]
    wanted = {id(p) for p in parameters}
    for group in optimizer.param_groups:
        members = [p for p in group["params"] if id(p) in wanted]
        lent = [p for p in members if p.grad is None]  # the method passes over what has no gradient
        try:
            for p in lent:
                p.grad = p.detach()
            begin({**group, "params": members}, *([] for _ in lists))
        finally:
            for p in lent:
                p.grad = None
    return True


def start_momentum(optimizer: torch.optim.SGD, parameters: Iterable[nn.Parameter]) -> None:
    """Begins the momentum of ``SGD`` without dampening with -0.0, from which its first step gives the same to the last
    bit.

    Where that step is skipped (``found_inf`` is 1), the fused kernel leaves a momentum behind that nobody wrote.
    """
    wanted = {id(p) for p in parameters}
    for group in optimizer.param_groups:
        if group["momentum"] and not group["dampening"]:
            for p in group["params"]:
                if id(p) in wanted and optimizer.state[p].get("momentum_buffer") is None:
                    optimizer.state[p]["momentum_buffer"] = torch.full_like(p, -0.0)
