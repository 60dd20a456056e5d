"""Layers on several devices: each device measures its own, one small copy brings the scores together, one device
decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .cuda import CudaCore
from .scaling import Scaling


@dataclass(frozen=True)
class _Part:
    """What one device measures."""

    core: CudaCore
    positions: Tensor  #: int64, of its parameters among all, on the deciding device
    there: Tensor  #: int64, the layers on it, on that device
    here: Tensor  #: the same on the deciding device


class SeveralDevicesCore:
    """Does what :class:`~layerselect.core.cuda.CudaCore` does, for parameters on several devices. No wait for any of
    them.

    The deciding device is that of the first parameter. Its core sees one number per layer, the square of the score, as
    if it were a sum over a gradient: its root is the score again, to the last bit. Launches: those of each device, and
    one more.

    Args:
        parameters, groups, num_layers, score, capture, warmup, interval, owner: as for ``CudaCore``; the parameters of
            one layer are on one device.
        device_of: says where a parameter is; tests divide a single device with it.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        groups: Sequence[int],
        num_layers: int,
        *,
        score: str = "l2",
        capture: str = "backward",
        warmup: int = 0,
        interval: int = 1,
        owner: nn.Module | None = None,
        device_of: Callable[[Tensor], object] = lambda parameter: parameter.device,
    ) -> None:
        main = parameters[0].device
        members: dict[object, list[int]] = {}
        for position, parameter in enumerate(parameters):
            members.setdefault(device_of(parameter), []).append(position)
        self._parts = []
        for positions in members.values():
            own, own_groups = [parameters[i] for i in positions], [groups[i] for i in positions]
            layers = sorted({g for g in own_groups if g < num_layers})
            self._parts.append(
                _Part(
                    CudaCore(own, own_groups, num_layers, score=score, capture=capture, history_rows=1, owner=owner),
                    torch.tensor(positions, dtype=torch.int64, device=main),
                    torch.tensor(layers, dtype=torch.int64, device=own[0].device),
                    torch.tensor(layers, dtype=torch.int64, device=main),
                )
            )
        carriers = [torch.zeros(1, device=main) for _ in range(num_layers + 1)]
        self._groups = list(range(num_layers + 1))
        self._decision = CudaCore(carriers, self._groups, num_layers, capture=None, warmup=warmup, interval=interval)
        self._squares = self._decision.state["sqnorms"]  # by layer: each has one carrier
        self._total_norm = torch.zeros((), dtype=torch.float64, device=main)
        self._sums = torch.zeros(num_layers + 1, dtype=torch.float64, device=main)
        self.state: dict[str, Tensor] = {
            **self._decision.state,
            "total_norm": self._total_norm,
            "group_sums": self._sums,
        }

    @property
    def parameter_sums(self) -> Tensor:
        """float64 [P], on the deciding device (see :attr:`CudaCore.parameter_sums`)."""
        sums = torch.zeros(sum(len(part.positions) for part in self._parts), dtype=torch.float64)
        sums = sums.to(self._sums.device)
        for part in self._parts:
            sums.index_copy_(0, part.positions, part.core.parameter_sums.to(sums.device, non_blocking=True))
        return sums

    @property
    def taken(self) -> bool:
        """Whether a gradient was gone when the backward pass of the last step ended."""
        return any(part.core.taken for part in self._parts)

    def written(self) -> bool:
        """Whether a gradient was written to in place, or replaced, since it was measured. Waits for nothing."""
        return any(part.core.written() for part in self._parts)

    def unmeasured(self, active: Sequence[bool]) -> list[bool]:
        """Which of the active layers had no gradient in the last step."""
        measured = {group for part in self._parts for group in part.core.measured}
        return [on and layer not in measured for layer, on in enumerate(active)]

    @property
    def launches(self) -> int:
        """Kernel launches of the last step on all devices, those of the copies left out."""
        return sum(part.core.launches for part in self._parts) + self._decision.launches

    def step(
        self, rule: dict[str, Any], active: Sequence[bool], scaling: Scaling | None = None, *, first_layer: int = 0
    ) -> bool:
        """Closes the step, as ``CudaCore.step``; ``scaling`` is on the deciding device."""
        self._sums.zero_()
        measured = False
        for part in self._parts:
            # A part that skips has its norms all the same, and that it is not finite reaches the decision with them.
            here = None if scaling is None else replace(scaling, found_inf=None).on(part.there.device)
            if not part.core.step({"kind": "all"}, active, here):
                self._squares.index_fill_(0, part.here, -1.0)
                continue
            measured = True
            state = part.core.state
            # Status 0: not finite in this step, which the deciding core must see for itself. -1: there was no gradient.
            fresh = state["scores"].masked_fill(state["status"] == 0, math.nan).double().square()
            known = torch.where(state["history_trained"][0], fresh, -1.0).index_select(0, part.there)
            self._squares.index_copy_(0, part.here, known.to(self._squares.device, non_blocking=True))
            self._sums += state["group_sums"].to(self._sums.device, non_blocking=True)
        if not measured:
            return False
        torch.sqrt(self._sums.sum(), out=self._total_norm)
        # 0, or NaN where a gradient is not finite: the last carrier represents everything without a score.
        self._squares[-1:].copy_(self._total_norm * 0.0, non_blocking=True)
        found_inf = None if scaling is None else Scaling(found_inf=scaling.found_inf)
        self._decision.decide(rule, active, found_inf, measured=self._groups, first_layer=first_layer)
        return True

    def close(self) -> None:
        """Removes the hooks; ``state`` keeps its values."""
        for part in self._parts:
            part.core.close()
        self._decision.close()
