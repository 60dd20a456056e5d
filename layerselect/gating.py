"""Mode ``gate``: the optimizer leaves unselected layers alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .errors import LayerSelectError
from .gate_watch import Watch
from .model_hooks import ModelHook
from .step_frames import OuterStep


class Gate:
    """Keeps an optimizer's step away from the parameters of unselected layers.

    For the time of ``optimizer.step()`` their gradients are set aside. Every optimizer of ``torch.optim``
    leaves a parameter without a gradient alone, its state tensors and step count included, so the
    selected layers get bit for bit what an optimizer over them alone would do. The gradients are put
    back afterwards: hooks and logging see what they would see without the gate. Other optimizers are watched
    in their first steps, and refused if they move what has no gradient.

    Args:
        optimizer: any that leaves parameters without a gradient alone.
        layers: for each layer, its parameters.
        selected: called at each step; says which layers the step may touch.

    Raises:
        LayerSelectError: for ``LBFGS``, whose search direction mixes all parameters. In ``optimizer.step()``:
            the optimizer moved a parameter or a state that it should not have.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layers: Sequence[Sequence[nn.Parameter]],
        selected: Callable[[], list[bool]],
    ) -> None:
        if isinstance(optimizer, torch.optim.LBFGS):
            raise LayerSelectError(
                "LBFGS moves all parameters along one common direction, so no layer can be left out of its step: "
                "use an optimizer that treats each parameter on its own"
            )
        self._optimizer = optimizer
        self._layers = layers
        self._selected = selected
        self._kept: list[tuple[nn.Parameter, Tensor]] = []
        self._watch = Watch(optimizer)
        self._nesting = OuterStep()
        self._handles = [
            optimizer.register_step_pre_hook(ModelHook(self._enter)),
            optimizer.register_step_post_hook(ModelHook(self._leave)),
        ]

    def close(self) -> None:
        self._nesting.forget()
        self._put_back()
        for handle in self._handles:
            handle.remove()

    def state_dropped(self, parameters: Iterable[nn.Parameter]) -> None:
        """The optimizer's state of these parameters was dropped between two steps."""

    def _enter(self, optimizer: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        return self._before_step(args, kwargs) if self._nesting.begins() else None

    def _leave(self, optimizer: Any, args: tuple, kwargs: dict) -> None:
        if self._nesting.ends():
            self._after_step()

    def _before_step(self, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        self._put_back()  # left over where the step before raised
        # torch hands the hook all positional arguments of step(), the optimizer itself first.
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._set_aside()
            return None
        self._before_closure()

        def gated_closure() -> Any:
            # The closure computes the gradients anew: those set aside before it are not wanted back.
            self._forget()
            loss = closure()
            self._set_aside()
            return loss

        if len(args) > 1:
            return (args[0], gated_closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": gated_closure}

    def _after_step(self) -> None:
        self._put_back()
        self._watch.check()

    def _before_closure(self) -> None:
        """Some optimizers act on the gradients they find before they call the closure: sharpness-aware ones do."""
        self._set_aside()

    def _set_aside(self) -> None:
        gated: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        for parameters, selected in zip(self._layers, self._selected(), strict=True):
            (free if selected else gated).extend(parameters)
        self._watch.before(gated, [p for p in free if p.grad is not None])
        self._keep_from_step(gated)
        self._start_fused_momentum()

    def _keep_from_step(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                self._kept.append((parameter, parameter.grad))
                parameter.grad = None

    def _start_fused_momentum(self) -> None:
        """Steps those parameters by themselves that ``SGD(fused=True)`` steps for the first time: its kernel knows a first
        step of all parameters, not of some."""
        optimizer = self._optimizer
        if type(optimizer) is not torch.optim.SGD:
            return
        if getattr(optimizer, "found_inf", None) is not None:
            start_momentum(optimizer)
        groups = [group["params"] for group in optimizer.param_groups if group["fused"] and group["momentum"]]
        running = [p for group in groups for p in group if p.grad is not None]
        first = [p for p in running if optimizer.state.get(p, {}).get("momentum_buffer") is None]
        if 0 < len(first) < len(running):
            step_only(optimizer, {id(p) for p in first})
            self._keep_from_step(first)

    def _forget(self) -> None:
        self._kept.clear()

    def _put_back(self) -> None:
        for parameter, gradient in self._kept:
            if parameter.grad is None:
                parameter.grad = gradient
        self._kept.clear()


def parameters_of(optimizer: torch.optim.Optimizer) -> set[int]:
    """The ids of the parameters that ``optimizer`` holds: layers may belong to several optimizers."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def step_only(optimizer: torch.optim.Optimizer, wanted: set[int]) -> None:
    """A step of ``optimizer`` over the parameters with these ids alone. Of the optimizers of torch only: their ``step``
    changes no group. Hooks and schedulers, which belong to the user's one call, hear nothing of it."""
    groups = optimizer.param_groups
    try:
        optimizer.param_groups = [
            {**group, "params": [p for p in group["params"] if id(p) in wanted]} for group in groups
        ]
        with torch.no_grad():
            inspect.unwrap(type(optimizer).step)(optimizer)
    finally:
        optimizer.param_groups = groups


def start_momentum(optimizer: torch.optim.SGD, skipped: Iterable[nn.Parameter] | None = None) -> None:
    """Begins the momentum of ``SGD(fused=True)`` with zeros, from which its first step gives the same.

    Where that step is skipped (``found_inf`` is 1), it leaves a momentum behind that nobody wrote.

    Args:
        skipped: the parameters whose step may be skipped; all with a gradient, if not given.
    """
    chosen = None if skipped is None else {id(p) for p in skipped}
    for group in optimizer.param_groups:
        if group["fused"] and group["momentum"] and not group["dampening"]:
            for parameter in group["params"]:
                if parameter.grad is not None and (chosen is None or id(parameter) in chosen):
                    state = optimizer.state[parameter]
                    if state.get("momentum_buffer") is None:
                        state["momentum_buffer"] = torch.zeros_like(parameter)
