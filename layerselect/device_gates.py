"""Mode ``gate`` decided by the device: the optimizer leaves unselected layers alone, and the host never learns which."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import _backend
from .gating import Gate, parameters_of, start_momentum, step_only
from .graph_capture import refuse_in_capture
from .sharding import held_here

logger = logging.getLogger(__name__)

_PATIENCE = 100  #: steps that the host gates for want of state, before it says so

_FUSED = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)


def make_gate(
    optimizer: torch.optim.Optimizer, layers: Sequence[Sequence[nn.Parameter]], state: dict[str, Tensor]
) -> Gate:
    """Keeps ``optimizer`` away from unselected layers: :class:`FusedGate` where it can, else :class:`KeepingGate`.

    Args:
        layers: for each layer, its parameters.
        state: that of a :class:`layerselect.cuda.CudaCore`: the live ``gate`` and ``mask``.
    """
    if takes_found_inf(optimizer):
        return FusedGate(optimizer, layers, state["gate"])
    if len({parameter.device for parameters in layers for parameter in parameters}) > 1:
        logger.warning("the layers are on several devices, so every gated step waits for them: use fused=True")
        return Gate(optimizer, layers, lambda: state["mask"].tolist())
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
    step count. What the layers' parameters get is what the optimizer gives them, bit for bit. Pre-step hooks that are
    registered after this gate see only what is left: the step of the outer parameters.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, layers: Sequence[Sequence[nn.Parameter]], gate: Tensor
    ) -> None:
        super().__init__(optimizer, layers, _undecided)
        self._gate = gate

    def _before_closure(self) -> None:
        """Nothing: the fused optimizers call their closure first, and setting aside is stepping here."""

    def _set_aside(self) -> None:
        optimizer = self._optimizer
        ours = parameters_of(optimizer)
        found_inf = getattr(optimizer, "found_inf", None)
        gate = self._gate
        if found_inf is not None:
            # A scaler adds up what it found on several devices, but only 1 skips a step.
            found_inf = found_inf.clamp(max=1.0)
            gate = torch.maximum(gate, found_inf)
        layers = [[p for p in layer if p.grad is not None and id(p) in ours] for layer in self._layers]
        if type(optimizer) is torch.optim.SGD:
            start_momentum(optimizer, None if found_inf is not None else [p for layer in layers for p in layer])
        try:
            for index, parameters in enumerate(layers):
                if parameters:
                    optimizer.found_inf = gate[index]
                    step_only(optimizer, {id(p) for p in parameters})
        finally:
            if found_inf is not None:
                optimizer.found_inf = found_inf
            elif hasattr(optimizer, "found_inf"):
                del optimizer.found_inf
        for parameters in layers:
            self._keep_from_step(parameters)


@dataclass(frozen=True)
class _Held:
    """A tensor that the step may change: the weights of ``parameter`` (``key`` is None), or a part of its state."""

    parameter: nn.Parameter
    key: Any
    tensor: Tensor
    layer: int
    here: Tensor  #: its memory in this process


class KeepingGate(Gate):
    """For any other optimizer: keeps weights and state of gated layers on the device, and restores them after the step.

    Costs the memory of a copy of all that the layers hold, and twice the traffic of the gated part. The optimizer sees the
    gradients of all layers, so it must treat each parameter on its own. The host gates, and waits for the device, in a step
    before which some state is not there yet, and in all steps of an optimizer that keeps state on the host, keeps some
    in its parameter groups, or replaces its tensors.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, layers: Sequence[Sequence[nn.Parameter]], gate: Tensor, mask: Tensor
    ) -> None:
        super().__init__(optimizer, layers, mask.tolist)  # waits; only for steps that the host has to gate
        self._gate = gate
        self._keeper: Any = None
        self._places: list[int] = []
        self._keeping: list[_Held] = []
        self._stepped: set[int] = set()
        self._groups_before: list[dict[str, Any]] = []
        self._host_only = False
        self._waits = 0

    def state_dropped(self, parameters: Iterable[nn.Parameter]) -> None:
        self._stepped.difference_update(map(id, parameters))

    def _set_aside(self) -> None:
        held = None if self._host_only else self._held()
        if held is None:
            refuse_in_capture(
                self._gate.device,
                "the host has to gate this step, for want of state on the device, so use fused=True, or make ordinary steps before "
                "in which all layers are selected (warmup=1)",
            )
            super()._set_aside()
            # What has a gradient left is about to be stepped.
            self._stepped.update(id(p) for parameters in self._layers for p in parameters if p.grad is not None)
            self._groups_before = [] if self._host_only else _numbers(self._optimizer)
            return
        if not held:
            return
        places = [h.here.data_ptr() for h in held]
        if places != self._places:
            refuse_in_capture(
                self._gate.device,
                "what it is to keep is not what the last ordinary step kept, so make one before, in which the same parameters have "
                "gradients",
            )
            keeper = _backend.load("native", "cpu").Keeper
            self._keeper = keeper([h.here for h in held], [h.layer for h in held], self._gate)
            self._places = places
        self._keeper.keep()
        self._keeping = held

    def _after_step(self) -> None:
        if self._groups_before and self._groups_before != _numbers(self._optimizer):
            self._gate_on_host("counts in its parameter groups, for all layers together")
        self._groups_before = []
        super()._after_step()

    def _forget(self) -> None:
        self._restore()
        super()._forget()

    def _put_back(self) -> None:
        self._restore()
        super()._put_back()

    @torch.no_grad()
    def _restore(self) -> None:
        held, self._keeping = self._keeping, []
        if not held:
            return
        self._keeper.restore()
        replaced = [h for h in held if self._is_replaced(h)]
        known = {(id(h.parameter), h.key) for h in held}
        new = [
            (h.parameter, key, h.layer)
            for h in held
            if h.key is None
            for key, value in self._state_of(h.parameter).items()
            if value is not None and (id(h.parameter), key) not in known
        ]
        if replaced or new:
            self._undo(replaced, new)

    def _undo(self, replaced: list[_Held], new: list[tuple[nn.Parameter, Any, int]]) -> None:
        """The kept tensors hold what they held, but the optimizer goes on with others: the host puts them back."""
        self._gate_on_host("replaces the tensors of its state")
        selected = self._selected()
        for h in replaced:
            if not selected[h.layer]:
                if h.key is None:
                    h.parameter.data = h.tensor
                else:
                    self._optimizer.state[h.parameter][h.key] = h.tensor
        for parameter, key, layer in new:
            if not selected[layer]:
                del self._optimizer.state[parameter][key]

    def _is_replaced(self, h: _Held) -> bool:
        if h.key is None:
            return held_here(h.parameter.detach()).data_ptr() != h.here.data_ptr()
        return self._state_of(h.parameter).get(h.key) is not h.tensor

    def _state_of(self, parameter: nn.Parameter) -> dict[Any, Any]:
        return self._optimizer.state.get(parameter) or {}

    def _held(self) -> list[_Held] | None:
        """All that the step may change in the layers; None if the device cannot keep it."""
        ours = parameters_of(self._optimizer)
        held: list[_Held] = []
        for layer, parameters in enumerate(self._layers):
            for parameter in parameters:
                if parameter.grad is None or id(parameter) not in ours:
                    continue
                state = {key: value for key, value in self._state_of(parameter).items() if value is not None}
                if not state and id(parameter) not in self._stepped:
                    self._wait_for_state(layer)
                    return None  # its first step makes it, if the optimizer keeps any
                if any(not isinstance(v, Tensor) or v.device != self._gate.device for v in state.values()):
                    self._gate_on_host("keeps part of its state on the host")
                    return None
                parts = {None: parameter.detach(), **state}
                held += [_Held(parameter, key, tensor, layer, held_here(tensor)) for key, tensor in parts.items()]
        return held

    def _wait_for_state(self, layer: int) -> None:
        self._waits += 1
        if self._waits == _PATIENCE:
            logger.warning(
                "layer %d and perhaps others were never selected in %d steps, so %s has no state of theirs and every gated "
                "step waits for the device: use fused=True, or warmup=1, which gives all layers their state",
                layer,
                _PATIENCE,
                type(self._optimizer).__name__,
            )

    def _gate_on_host(self, why: str) -> None:
        self._host_only = True
        logger.warning(
            "%s %s, so every gated step waits for the device: use fused=True or capturable=True where there is one",
            type(self._optimizer).__name__,
            why,
        )


def _numbers(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The numbers of each group; a step that changes one counts for all of the group's parameters together."""
    return [{k: v for k, v in group.items() if isinstance(v, (bool, int, float))} for group in optimizer.param_groups]


def _undecided() -> list[bool]:
    raise AssertionError("the device decides")
