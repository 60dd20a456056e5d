"""The step of a selector on one device: norms, selection and gate, and no wait for the device anywhere.

:class:`CudaCore` measures and decides, :func:`make_gate` ties an optimizer to the decision, and
:class:`SelectionMirror` brings it to the host, some steps late, for mode ``freeze``.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import _backend
from .errors import LayerSelectError
from .gating import Gate
from .rules import All, Fixed, Fraction, Rule, Threshold, TopK, VarianceSplit

logger = logging.getLogger(__name__)

_FUSED = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)


def device_rule(rule: Rule, num_layers: int, device: torch.device) -> dict[str, Any] | None:
    """The arguments that make the kernel apply ``rule``; None for a rule that only the host can apply."""
    kind = type(rule)
    if kind is VarianceSplit:
        return {"kind": "variance", "window": rule.window, "inclusive": rule.inclusive, "splits": rule.splits}
    if kind is TopK:
        return {"kind": "top", "k": rule.k}
    if kind is Fraction:
        return {"kind": "top", "k": max(1, math.floor(rule.p * num_layers + 0.5))}
    if kind is Threshold:
        return {"kind": "threshold", "gamma": rule.gamma}
    if kind is All:
        return {"kind": "all"}
    if kind is Fixed:
        return {"kind": "fixed", "fixed": rule._mask.to(device)}
    return None


class CudaCore:
    """Measures L layers and decides, on the device: at most L + 1 launches in a step with ``capture="backward"``, one to
    three with ``"step"``, none of them waited for.

    Args:
        parameters: leaves on one device, none of them replaced later.
        groups: the layer of each parameter; L for outer parameters.
        num_layers: L, at most 1,024.
        score: ``"l2"``, ``"rms"`` or ``"sqrt_sum"`` (:mod:`layerselect.scores`).
        capture: ``"backward"`` or ``"step"``.
        warmup, interval: as in :class:`layerselect.FastSelector`; counted on the device.
        history_rows: rows of the ring that records the steps.

    Attributes:
        state: live tensors on the device by name: ``scores`` float32 [L], ``status`` uint8 [L], ``nonfinite`` int64 [L],
            ``decided``, ``mask`` and ``wanted`` bool [L], ``gate`` float32 [L + 1] (1 leaves a layer alone, in the
            style of ``found_inf``), ``frequency`` int64 [L], ``step`` int64 [], ``threshold`` float32 [],
            ``total_norm`` float64 [], and the ring ``history_{step,threshold,scores,mask,trained}``.

    Raises:
        ValueError: parameters on several devices, or no kernels for their device in this build.
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
        history_rows: int = 512,
        owner: object = None,
    ) -> None:
        native = _backend.load("native", "cpu")
        self.num_layers = num_layers
        self._warmup, self._interval = warmup, interval
        self._parameters, self._groups = list(parameters), list(groups)
        self._core = native.DeviceCore(self._parameters, self._groups, num_layers, score, history_rows)
        self._monitor = None
        if capture == "backward":
            self._monitor = native.GradientMonitor(
                self._parameters, self._groups, num_layers + 1, owner=owner, core=self._core
            )
        self.state: dict[str, Tensor] = self._core.state
        self._alive: list[Tensor] = []

    @property
    def launches(self) -> int:
        """Kernel launches of the last step."""
        return self._core.launches

    def step(
        self,
        rule: dict[str, Any],
        active: Sequence[bool],
        *,
        inv_scale: Tensor | None = None,
        skip: Tensor | None = None,
    ) -> bool:
        """Closes the step on the current stream. Waits for nothing.

        Args:
            rule: from :func:`device_rule`.
            active: for each layer, whether it took gradients; the others' scores are held.
            inv_scale: float32 [] on the device; the gradients are multiplied by it.
            skip: float32 [] on the device; if it is not 0, nothing changes (a ``GradScaler``'s ``found_inf``).

        Returns:
            False, and nothing was done, if no parameter has a gradient.
        """
        if self._monitor is not None:
            measured = self._monitor.finish()
        else:
            gradients = [p.grad for p in self._parameters]
            measured = sorted({g for g, grad in zip(self._groups, gradients, strict=True) if grad is not None})
            self._core.hold_all(gradients)
        if not measured:
            return False
        self._core.close_step(
            measured=measured,
            active=list(active),
            warmup=self._warmup,
            interval=self._interval,
            inv_scale=inv_scale,
            skip=skip,
            **rule,
        )
        # Until the next step, by when the device has read them.
        self._alive = [t for t in (inv_scale, skip, rule.get("fixed")) if t is not None]
        return True

    def close(self) -> None:
        """Removes the hooks; ``state`` keeps its values."""
        if self._monitor is not None:
            self._monitor.close()


def make_gate(
    optimizer: torch.optim.Optimizer, layers: Sequence[Sequence[nn.Parameter]], state: dict[str, Tensor]
) -> Gate:
    """Keeps ``optimizer`` away from unselected layers: :class:`FusedGate` where it can, else :class:`KeepingGate`.

    Args:
        layers: for each layer, its parameters.
        state: that of a :class:`CudaCore`: the live ``gate`` and ``mask``.
    """
    if takes_found_inf(optimizer):
        return FusedGate(optimizer, layers, state["gate"])
    return KeepingGate(optimizer, layers, state["gate"], state["mask"])


def takes_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Whether every group of ``optimizer`` runs a fused kernel that leaves all alone where ``found_inf`` is 1.

    ``SGD`` with momentum and dampening does not: its first step differs from the others, and the host would have to know
    which one is the first."""
    if type(optimizer) not in _FUSED:
        return False
    return all(
        group.get("fused") and not (group.get("momentum") and group.get("dampening"))
        for group in optimizer.param_groups
    )


class FusedGate(Gate):
    """Steps layer by layer through the optimizer's own fused kernels, each with its number of ``gate`` as ``found_inf``.

    The kernel reads the number on the device and, where it is 1, writes nothing; the optimizer itself takes back the
    step count. What the layers' parameters get is what the optimizer gives them, bit for bit.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, layers: Sequence[Sequence[nn.Parameter]], gate: Tensor
    ) -> None:
        super().__init__(optimizer, layers, _undecided)
        self._optimizer = optimizer
        self._gate = gate
        # Without torch's wrappers, which run hooks and count calls: these belong to the user's one call.
        self._plain_step: Callable[[Any], Any] = inspect.unwrap(type(optimizer).step)

    @torch.no_grad()
    def _set_aside(self) -> None:
        optimizer = self._optimizer
        groups, found_inf = optimizer.param_groups, getattr(optimizer, "found_inf", None)
        gate = self._gate if found_inf is None else torch.maximum(self._gate, found_inf)
        try:
            for index, parameters in enumerate(self._layers):
                mine = {id(p) for p in parameters if p.grad is not None}
                if not mine:
                    continue
                optimizer.param_groups = [
                    {**group, "params": [p for p in group["params"] if id(p) in mine]} for group in groups
                ]
                self._start_momentum(optimizer)
                optimizer.found_inf = gate[index]
                self._plain_step(optimizer)
        finally:
            optimizer.param_groups = groups
            if found_inf is None:
                del optimizer.found_inf
            else:
                optimizer.found_inf = found_inf
        for parameters in self._layers:
            for parameter in parameters:
                if parameter.grad is not None:
                    self._kept.append((parameter, parameter.grad))
                    parameter.grad = None

    @staticmethod
    def _start_momentum(optimizer: torch.optim.Optimizer) -> None:
        """SGD's first step leaves its momentum unwritten where the gate is closed. From zeros it gives the same."""
        for group in optimizer.param_groups:
            if group.get("momentum"):
                for parameter in group["params"]:
                    state = optimizer.state[parameter]
                    if state.get("momentum_buffer") is None:
                        state["momentum_buffer"] = torch.zeros_like(parameter)


class KeepingGate(Gate):
    """For any other optimizer: keeps weights and state of gated layers on the device, and restores them after the step.

    Costs the memory of a copy of all that the layers hold, and twice the traffic of the gated part. An optimizer whose
    state is not all on the device, or not there yet, is gated by the host in that step, which then waits for the device.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, layers: Sequence[Sequence[nn.Parameter]], gate: Tensor, mask: Tensor
    ) -> None:
        super().__init__(optimizer, layers, mask.tolist)  # waits; only for steps that the host has to gate
        self._optimizer = optimizer
        self._gate = gate
        self._keeper: Any = None
        self._places: list[int] = []
        self._keeping = False
        self._warned = False

    def _set_aside(self) -> None:
        tensors, groups = self._held()
        if tensors is None:
            super()._set_aside()
            return
        places = [t.data_ptr() for t in tensors]
        if places != self._places:
            self._keeper = _backend.load("native", "cpu").Keeper(tensors, groups, self._gate)
            self._places = places
        self._keeper.keep()
        self._keeping = True

    def _put_back(self) -> None:
        if self._keeping:
            self._keeper.restore()
            self._keeping = False
        super()._put_back()

    def _held(self) -> tuple[list[Tensor] | None, list[int]]:
        """All that the step may change in the layers, and the layer of each; None if the device cannot keep it."""
        tensors: list[Tensor] = []
        groups: list[int] = []
        for index, parameters in enumerate(self._layers):
            for parameter in parameters:
                if parameter.grad is None:
                    continue
                state = self._optimizer.state.get(parameter, {})
                values = [v for v in state.values() if v is not None]
                if not state and type(self._optimizer) is not torch.optim.SGD:
                    return None, []  # the first step makes it
                if any(not isinstance(v, Tensor) or v.device != self._gate.device for v in values):
                    self._warn()
                    return None, []
                if type(self._optimizer) is torch.optim.SGD and not values and self._has_momentum():
                    return None, []
                tensors += [parameter.detach(), *values]
                groups += [index] * (1 + len(values))
        return tensors, groups

    def _has_momentum(self) -> bool:
        return any(group.get("momentum") for group in self._optimizer.param_groups)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s keeps part of its state on the host, so every gated step waits for the device: use fused=True, or "
                "capturable=True",
                type(self._optimizer).__name__,
            )


class SelectionMirror:
    """A selection on the host, ``lag`` steps old, for which nobody waits longer than for a step that is that old.

    Args:
        num_layers: L.
        lag: how many steps old a selection is when it is read; fixed, so that runs repeat bit for bit.
        device: where the selection is made. On the CPU there is nothing to wait for.
    """

    def __init__(self, num_layers: int, lag: int, device: torch.device) -> None:
        if lag < 0:
            raise LayerSelectError(f"lag={lag!r} is not a whole number of at least 0")
        self._lag = lag
        self._cuda = device.type == "cuda"
        self._rows = torch.zeros((lag + 1, num_layers), dtype=torch.bool, pin_memory=self._cuda)
        self._events = [torch.cuda.Event() for _ in range(lag + 1)] if self._cuda else []
        self._pushed = 0

    def push(self, selection: Tensor) -> None:
        """Starts the copy of a selection (bool [L]) to the host, on the current stream."""
        slot = self._pushed % (self._lag + 1)
        self._rows[slot].copy_(selection, non_blocking=True)
        if self._cuda:
            self._events[slot].record()
        self._pushed += 1

    def read(self) -> list[bool] | None:
        """The selection pushed ``lag`` pushes before the last one; None if there is none yet."""
        if self._pushed <= self._lag:
            return None
        slot = (self._pushed - 1 - self._lag) % (self._lag + 1)
        if self._cuda:
            self._events[slot].synchronize()
        return [bool(flag) for flag in self._rows[slot].tolist()]


def _undecided() -> list[bool]:
    raise AssertionError("the device decides")
