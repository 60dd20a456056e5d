"""Gating a fused optimizer: its step in parts, each of which the device may leave out."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed.sharding import held_gradient, held_here, is_sharded
from .fresh_state import begin_state, start_momentum
from .gate import Gate, step_parts
from .nonfinite import NonFinite
from .step_hooks import StepHooks

Part = tuple[int, list[nn.Parameter]]
State = dict[str, Any]


class _Kind(Enum):
    """What the parameters of a part are."""

    WHOLE = "tensors that one kernel takes"
    SPREAD = "``DTensor``, of which one kernel takes what this process holds"
    MIXED = "left to the optimizer"


class FusedGate(Gate):
    """Steps layer by layer through the optimizer's own fused kernels, each with its number of ``gate`` as
    ``found_inf``.

    The kernel reads the number on the device and, where it is 1, writes nothing. What the layers' parameters get is
    what the optimizer gives them, bit for bit. Pre-step hooks that are registered after this gate see only what is
    left: the step of the outer parameters.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layers: Sequence[Sequence[nn.Parameter]],
        gate: Tensor,
        nonfinite: NonFinite | None = None,
        hooks: StepHooks | None = None,
    ) -> None:
        super().__init__(optimizer, layers, _undecided, nonfinite, hooks)
        self._gate = gate
        self._parts = FusedParts(optimizer)
        self._found_before: list[Tensor | None] = []

    def _before_closure(self) -> None:
        """Nothing: the fused optimizers call their closure first, and setting aside is stepping here."""

    def _set_aside(self) -> None:
        optimizer, owned = self._optimizer, self._owned
        nonfinite, marks = self._nonfinite, self._marks
        moved = not self._marked or marks is None or marks.moved()
        stops = None if nonfinite is None else nonfinite.stops(moved)
        attributes = vars(optimizer)
        found_inf = attributes.get("found_inf")
        self._found_before.append(found_inf)
        if found_inf is not None:
            # A scaler adds up what it found on several devices, but only 1 skips a step.
            found_inf = found_inf.clamp(max=1.0).to(self._gate.device, non_blocking=True)
        layer = owned.only
        if layer is not None:
            # One number for all that it holds: its own step does.
            if self._sgd is not None:
                start_momentum(self._sgd, [p for p in owned.layers[layer] if p.grad is not None])
            number = self._gate[layer] if stops is None else stops.numbers[layer]
            attributes["found_inf"] = number if found_inf is None else torch.maximum(number, found_inf)
            return
        self._parts.step(owned.parts, _either(self._gate if stops is None else stops.gate, found_inf))
        stop = found_inf if stops is None else _either(stops.everything, found_inf)
        if stop is not None and owned.outer:
            if self._sgd is not None:
                start_momentum(self._sgd, [p for p in owned.outer if p.grad is not None])
            attributes["found_inf"] = stop
        for layer in owned.mine:
            self._keep_from_step(owned.layers[layer])

    def _put_back(self) -> None:
        self._left = False
        if self._kept:
            super()._put_back()
        if self._found_before:
            found_inf = self._found_before.pop()
            if found_inf is None:
                vars(self._optimizer).pop("found_inf", None)
            else:
                _give_back(self._optimizer, found_inf)

    # Behind a step there is nothing else to do: torch's own optimizers need no watching.
    _after_step = _put_back


class FusedParts:
    """Calls the kernel of ``AdamW``, ``Adam`` or ``SGD`` (with ``fused=True``) once for each part, with a number of its
    own.

    It gives each part what the optimizer's own ``step()`` gives it, bit for bit, without looking through all groups for
    each: where a parameter's state is, is found once, and anew where the optimizer's ``state`` holds other
    dictionaries. What these calls would not do as the optimizer does (a learning rate that is a tensor, a part of
    several dtypes, or spread over processes in part) is left to its ``step()``. Of a ``DTensor`` the kernels are given
    what this process holds, which is all that its own operations do.

    Args:
        optimizer: one that :func:`layerselect.modes.device_gate.takes_found_inf`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._is_sgd = type(optimizer) is torch.optim.SGD
        self._parts: object = None
        self._all_states: list[Any] = []
        self._states: list[list[list[State]]] = []
        self._kinds: list[list[_Kind]] = []

    @torch.no_grad()
    def step(self, parts: Sequence[tuple[int, list[Part]]], found_inf: Tensor) -> None:
        """A step of every part whose number is 0.

        Args:
            parts: layers, and what each group has of them.
            found_inf: float32 [at least L]: where it is 1, nothing of the layer changes.
        """
        optimizer, groups = self._optimizer, self._optimizer.param_groups
        self._find(parts)
        stops: Sequence[Tensor]
        advances: Sequence[Tensor]
        # Of an optimizer that holds little, not a number for each layer.
        if 4 * len(parts) < len(found_inf):
            chosen = torch.stack([found_inf[layer] for layer, _ in parts]) if parts else found_inf[:0]
            stops, advances = chosen.unbind(), (1.0 - chosen).unbind()
        else:
            every, rest = found_inf.unbind(), (1.0 - found_inf).unbind()
            stops, advances = [every[layer] for layer, _ in parts], [rest[layer] for layer, _ in parts]
        scale = getattr(optimizer, "grad_scale", None)
        before = getattr(optimizer, "found_inf", None)
        try:
            for layer, (_, own) in enumerate(parts):
                for index, (place, parameters) in enumerate(own):
                    gradients = [g for p in parameters if (g := p.grad) is not None]
                    states, kind = self._states[layer][index], self._kinds[layer][index]
                    if not gradients:
                        continue
                    if len(gradients) < len(parameters):
                        there = [i for i, p in enumerate(parameters) if p.grad is not None]
                        parameters = [parameters[i] for i in there]
                        states = [states[i] for i in there]
                    group = groups[place]
                    if kind is _Kind.MIXED or not _is_plain(group) or gradients[0].is_sparse:
                        vars(optimizer)["found_inf"] = stops[layer]
                        step_parts(optimizer, [(place, parameters)])
                        continue
                    weights: list[Tensor] = list(parameters)
                    if kind is _Kind.SPREAD:
                        gradients = [g for p in parameters if (g := held_gradient(p)) is not None]
                        weights = [held_here(p) for p in parameters]
                        states = [{key: held_here(value) for key, value in state.items()} for state in states]
                    if self._is_sgd:
                        self._sgd(group, weights, gradients, states, stops[layer], scale)
                    else:
                        self._adam(group, weights, gradients, states, stops[layer], advances[layer], scale)
        finally:
            _give_back(optimizer, before)

    def _find(self, parts: Sequence[tuple[int, list[Part]]]) -> None:
        """Where the state of each parameter is; what has a gradient and no state yet is given it."""
        optimizer = self._optimizer
        fresh = [
            p
            for layer, (_, own) in enumerate(parts)
            for index, (_, parameters) in enumerate(own)
            for p, state in zip(
                parameters,
                self._states[layer][index] if parts is self._parts else [None] * len(parameters),
                strict=True,
            )
            if not state and p.grad is not None and not optimizer.state.get(p)
        ]
        if fresh:
            begin_state(optimizer, fresh)
        states = optimizer.state.values()
        if parts is self._parts and len(states) == len(self._all_states) and all(map(is_, states, self._all_states)):
            return
        self._parts, self._all_states = parts, list(states)
        self._states = [[[optimizer.state.get(p, {}) for p in parameters] for _, parameters in own] for _, own in parts]
        self._kinds = [
            [_kind(parameters, states) for (_, parameters), states in zip(own, known, strict=True)]
            for (_, own), known in zip(parts, self._states, strict=True)
        ]

    def _adam(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        stop: Tensor,
        advance: Tensor,
        scale: Tensor | None,
    ) -> None:
        device = parameters[0].device
        steps = [state["step"] for state in states]
        # Where the kernel is told to stop, it does not look at the count.
        torch._foreach_add_(steps, advance.to(device, non_blocking=True))
        decoupled = group.get("decoupled_weight_decay", type(self._optimizer) is torch.optim.AdamW)
        (torch._fused_adamw_ if decoupled else torch._fused_adam_)(
            parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
            grad_scale=None if scale is None else scale.to(device, non_blocking=True),
            found_inf=stop.to(device, non_blocking=True),
        )

    def _sgd(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[State],
        stop: Tensor,
        scale: Tensor | None,
    ) -> None:
        device = parameters[0].device
        torch._fused_sgd_(
            parameters,
            gradients,
            [state["momentum_buffer"] for state in states] if group["momentum"] else [],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            is_first_step=False,
            grad_scale=None if scale is None else scale.to(device, non_blocking=True),
            found_inf=stop.to(device, non_blocking=True),
        )


def _either(stop: Tensor, found_inf: Tensor | None) -> Tensor:
    return stop if found_inf is None else torch.maximum(stop, found_inf)


def _give_back(optimizer: torch.optim.Optimizer, found_inf: Tensor | None) -> None:
    """What a scaler had found before the step."""
    if found_inf is not None:
        vars(optimizer)["found_inf"] = found_inf
    else:
        vars(optimizer).pop("found_inf", None)


def _is_plain(group: dict[str, Any]) -> bool:
    """Whether all numbers of the group are numbers."""
    numbers = (group["lr"], group["weight_decay"], *group.get("betas", ()), group.get("momentum", 0.0))
    return not any(isinstance(number, Tensor) for number in numbers) and not group.get("differentiable")


def _kind(parameters: Sequence[Any], states: Sequence[State]) -> _Kind:
    """Whether one kernel takes all of them, as they are or as this process holds them."""
    if len({(p.device, p.dtype) for p in parameters}) > 1:
        return _Kind.MIXED
    spread = {is_sharded(p) for p in parameters}
    for parameter, state in zip(parameters, states, strict=True):
        spread |= {
            is_sharded(value) and value.placements == parameter.placements
            for key, value in state.items()
            if key != "step" and value is not None
        }
    if len(spread) > 1:
        return _Kind.MIXED
    return _Kind.SPREAD if True in spread else _Kind.WHOLE


def _undecided() -> list[bool]:
    raise AssertionError("the device decides")
