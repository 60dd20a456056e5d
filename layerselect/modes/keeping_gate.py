"""Gating any optimizer on a device: what its step changed of unselected layers is put back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.graph_capture import refuse_in_capture
from ..distributed.sharding import held_here
from ..utils.device_copies import to_device
from .fresh_state import begin_state
from .gate import Gate
from .nonfinite import NonFinite
from .room import Held, Room
from .step_hooks import StepHooks

logger = logging.getLogger(__name__)

_PREPARES = (
    "it has to prepare what it keeps, so use an optimizer with fused=True, or make ordinary steps before (with "
    "warmup=1), in which the same parameters have gradients"
)

_PATIENCE = 100  #: steps that the host gates for want of state, before it says so


class KeepingGate(Gate):
    """The gate of any other optimizer: keeps weights and state of gated layers on the device, and restores them after
    the step.

    Costs the memory of a copy of all that the optimizer holds, and twice the traffic of the gated part. The optimizer
    sees the gradients of all layers, so it must treat each parameter on its own. There is one room for everything,
    whatever gradients are missing; it is made anew where the optimizer has begun more state, or replaced some. The host
    gates, and waits for the device, in a step before which the state of a parameter that has a gradient is not there
    and cannot be begun (:func:`~layerselect.modes.fresh_state.begin_state`), and in all steps of an optimizer that
    keeps state on the host, keeps some in its parameter groups, or replaces its tensors.

    Args:
        optimizer, layers, nonfinite, hooks: as for :class:`~layerselect.modes.gate.Gate`.
        gate, mask: live, on the device.
        begin_all: whether the state of all parameters is begun with the first one, so that the room never grows.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layers: Sequence[Sequence[nn.Parameter]],
        gate: Tensor,
        mask: Tensor,
        nonfinite: NonFinite | None = None,
        hooks: StepHooks | None = None,
        *,
        begin_all: bool = False,
    ) -> None:
        # Reading the mask waits; only for steps that the host has to gate.
        super().__init__(optimizer, layers, mask.tolist, nonfinite, hooks)
        self._gate = gate
        self._gate_now = gate.clone()  # what the keeper reads
        self._begin_all = begin_all
        self._absent: list[int] = []
        self._present_here: Tensor | None = None
        self._room: Room | None = None
        self._without_state: list[nn.Parameter] = []
        self._keeping = False
        self._stepped: set[int] = set()
        self._about_to_step: set[int] = set()
        self._groups_before: list[dict[str, Any]] = []
        self._host_only = False
        self._waits = 0

    def state_dropped(self, parameters: Iterable[nn.Parameter]) -> None:
        self._stepped.difference_update(map(id, parameters))

    def _set_aside(self) -> None:
        held = None if self._host_only else self._held()
        if held is None:
            refuse_in_capture(self._gate.device, "the host has to gate this step, so use an optimizer with fused=True")
            super()._set_aside()
            # What has a gradient left is about to be stepped.
            self._about_to_step = {id(p) for _, p in self._parameters() if p.grad is not None} - self._stepped
            self._stepped |= self._about_to_step
            self._groups_before = [] if self._host_only else _numbers(self._optimizer)
            return
        if not held:
            return
        assert self._room is not None
        self._write_gate()
        self._room.keeper.keep()
        self._keeping = True

    def _after_step(self) -> None:
        if self._groups_before and self._groups_before != _numbers(self._optimizer):
            self._gate_on_host("counts in its parameter groups, for all layers together")
        self._groups_before = []
        self._about_to_step = set()
        super()._after_step()

    def _undo_for_closure(self) -> None:
        self._restore()
        self._stepped -= self._about_to_step  # most optimizers step nothing before their closure
        super()._undo_for_closure()

    def _put_back(self) -> None:
        self._restore()
        super()._put_back()

    def _write_gate(self) -> None:
        """What is kept in this step: nothing of what has no gradient, since no step moves that."""
        gate = self._gate
        if self._nonfinite is not None:
            gate = self._nonfinite.stops(self.moved()).gate
        owned = self._owned
        absent = []
        for layer in owned.mine:
            for p in owned.layers[layer]:
                if p.grad is not None:
                    break
            else:
                absent.append(layer)
        if absent != self._absent or self._present_here is None:
            refuse_in_capture(gate.device, _PREPARES)
            self._absent = absent
            present = torch.ones(len(owned.layers) + 1, dtype=torch.float32)
            present[absent] = 0.0
            self._present_here = to_device(present, gate.device)
        torch.mul(gate, self._present_here, out=self._gate_now)

    def _restore(self) -> None:
        keeping, self._keeping = self._keeping, False
        if keeping and self._room is not None:
            self._room.keeper.restore()
            if not self._room.stands():
                self._undo(self._room.held)

    @torch.no_grad()
    def _undo(self, held: list[Held]) -> None:
        """The kept tensors hold what they held, but the optimizer goes on with others: the host puts them back."""
        replaced = [h for h in held if self._is_replaced(h)]
        known = {(id(h.parameter), h.key) for h in held}
        new = [
            (h.parameter, key, h.layer)
            for h in held
            if h.key is None
            for key, value in self._state_of(h.parameter).items()
            if value is not None and (id(h.parameter), key) not in known
        ]
        if not replaced and not new:
            return
        self._gate_on_host("replaces the tensors of its state")
        gated = self._gate_now.tolist()
        for h in replaced:
            if gated[h.layer]:
                if h.key is None:
                    h.parameter.data = h.tensor
                else:
                    self._optimizer.state[h.parameter][h.key] = h.tensor
        for parameter, key, layer in new:
            if gated[layer]:
                del self._optimizer.state[parameter][key]

    def _is_replaced(self, h: Held) -> bool:
        if h.key is None:
            return held_here(h.parameter).data_ptr() != held_here(h.tensor).data_ptr()
        return self._state_of(h.parameter).get(h.key) is not h.tensor

    def _state_of(self, parameter: nn.Parameter) -> dict[Any, Any]:
        return self._optimizer.state.get(parameter) or {}

    def _parameters(self) -> Iterator[tuple[int, nn.Parameter]]:
        owned = self._owned
        for layer in owned.mine:
            for parameter in owned.layers[layer]:
                yield layer, parameter
        for parameter in owned.outer:
            yield len(owned.layers), parameter

    def _held(self) -> list[Held] | None:
        """All that the step may change; None if the device cannot keep it."""
        room = self._room
        if (
            room is None
            or room.of is not self._owned.layers
            or any(p.grad is not None for p in self._without_state)
            or not room.stands()
        ):
            return self._make_room()
        return room.held

    @torch.no_grad()
    def _make_room(self) -> list[Held] | None:
        refuse_in_capture(self._gate.device, _PREPARES)
        self._room = None  # before the next one is made
        if not self._begin_states():
            return None
        held = self._find()
        if held is None:
            return None
        self._room = Room(held, self._optimizer, self._owned.layers, self._gate_now)
        return held

    def _begin_states(self) -> bool:
        """Sees to it that what has a gradient has its state, if the optimizer keeps any; False if only a step can
        tell.
        """
        fresh = [(i, p) for i, p in self._parameters() if id(p) not in self._stepped and not self._state_of(p)]
        waiting = [layer for layer, p in fresh if p.grad is not None]
        if not waiting:
            return True
        begun = [p for _, p in fresh if p.grad is not None or (self._begin_all and p.requires_grad)]
        if not begin_state(self._optimizer, begun):
            self._wait_for_state(waiting[0])
            return False
        self._stepped.update(map(id, begun))
        return True

    def _find(self) -> list[Held] | None:
        held: list[Held] = []
        self._without_state = []
        for layer, parameter in self._parameters():
            state = {key: value for key, value in self._state_of(parameter).items() if value is not None}
            if not state and id(parameter) not in self._stepped:
                self._without_state.append(parameter)  # and without a gradient
                continue
            if any(not isinstance(v, Tensor) or v.device != self._gate.device for v in state.values()):
                self._gate_on_host("keeps part of its state on the host")
                return None
            parts = {None: parameter.detach(), **state}
            held += [Held(parameter, key, tensor, layer) for key, tensor in parts.items()]
        return held

    def _wait_for_state(self, layer: int) -> None:
        self._waits += 1
        if self._waits == _PATIENCE:
            logger.warning(
                "layer %d and perhaps others were never selected in %d steps, so %s has no state of theirs and every "
                "gated step waits for the device: use fused=True, or warmup=1, which gives all layers their state",
                layer,
                _PATIENCE,
                type(self._optimizer).__name__,
            )

    def _gate_on_host(self, why: str) -> None:
        self._host_only = True
        self._room = None
        logger.warning(
            "%s %s, so every gated step waits for the device: use fused=True or capturable=True where there is one",
            type(self._optimizer).__name__,
            why,
        )


def _numbers(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The numbers of each group; a step that changes one counts for all of the group's parameters together."""
    return [{k: v for k, v in group.items() if isinstance(v, (bool, int, float))} for group in optimizer.param_groups]
