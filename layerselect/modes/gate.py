"""Mode ``gate``: the optimizer leaves unselected layers alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed.sharding import held_here
from ..errors import LayerSelectError
from .fresh_state import start_momentum
from .gate_check import Watch
from .nonfinite import GradientMarks, NonFinite, version_of
from .ownership import Ownership, holds
from .step_hooks import Closure, StepHooks


class Gate:
    """Keeps an optimizer's step away from the parameters of unselected layers.

    For the time of ``optimizer.step()`` their gradients are set aside. Every optimizer of ``torch.optim``
    leaves a parameter without a gradient alone, its state tensors and step count included, so the
    selected layers get bit for bit what an optimizer over them alone would do. The gradients are put
    back afterwards: hooks and logging see what they would see without the gate. Other optimizers are watched
    in their first steps, and refused if they move what has no gradient.

    Args:
        optimizer: any that leaves parameters without a gradient alone.
        layers: for each layer, its parameters; some may be in other optimizers.
        selected: called at each step; says which layers the step may touch.
        nonfinite: what is known of gradients that are not finite; if not given, only what is not selected is kept away.
        hooks: those on the optimizer's steps, if others take part; if not given, the gate has its own.

    Raises:
        LayerSelectError: for ``LBFGS``, whose search direction mixes all parameters. In ``optimizer.step()``:
            the optimizer moved a parameter or a state that it should not have.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layers: Sequence[Sequence[nn.Parameter]],
        selected: Callable[[], Sequence[bool]],
        nonfinite: NonFinite | None = None,
        hooks: StepHooks | None = None,
    ) -> None:
        if isinstance(optimizer, torch.optim.LBFGS):
            raise LayerSelectError(
                "LBFGS moves all parameters along one common direction, so no layer can be left out of its step: "
                "use an optimizer that treats each parameter on its own"
            )
        self._optimizer = optimizer
        self._owned = Ownership(optimizer, layers)
        self._selected = selected
        self._nonfinite = nonfinite
        self._kept: list[tuple[nn.Parameter, Tensor]] = []
        self._withheld: list[tuple[nn.Parameter, Tensor]] = []
        self._shown: tuple[nn.Parameter, int] | None = None
        self._stand_in: nn.Parameter | None = None
        self._marks: GradientMarks | None = None
        self._marked = False
        self._left = False  # something may be set aside: by a step that is running or has raised, or until the next
        self._watch = Watch(optimizer)
        self._sgd = optimizer if type(optimizer) is torch.optim.SGD else None
        self._hooks = StepHooks(optimizer) if hooks is None else hooks
        self._hooks.add(self._before_step, self._after_step)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Whose step is gated."""
        return self._optimizer

    def held(self) -> list[tuple[int, list[nn.Parameter]]]:
        """The layers of which the optimizer holds something, and what."""
        self._owned.look()
        return [(layer, self._owned.layers[layer]) for layer in self._owned.mine]

    def close(self) -> None:
        self._take_up()
        self._put_back()
        self._hooks.remove(self._before_step, self._after_step)

    def state_dropped(self, parameters: Iterable[nn.Parameter]) -> None:
        """The optimizer's state of these parameters was dropped between two steps."""

    def begin(self) -> None:
        """New gradients were measured: those still set aside, in a step that never came or was left by an exception,
        are old.
        """
        self._marked = False
        self._kept.clear()
        self._withheld.clear()
        stand_in, self._stand_in = self._stand_in, None
        if stand_in is not None and stand_in.grad is not None and version_of(stand_in.grad) < 1:
            stand_in.grad = None  # nobody stepped, and nobody added to it

    def withhold(self, layers: Iterable[int]) -> None:
        """Sets the gradients of these layers aside until the next step is over, so that nothing before it meets them.
        Zeros stand in for them: whoever reads gradients meanwhile finds one wherever there was one.
        """
        self._owned.look()
        for layer in layers:
            for parameter in self._owned.layers[layer]:
                if parameter.grad is not None:
                    self._left = True
                    self._withheld.append((parameter, parameter.grad))
                    parameter.grad = torch.zeros_like(parameter.grad)

    def mark(self) -> None:
        """Gradients are as they are to be stepped, as far as we know: from now on it matters that they are written
        to.
        """
        if self._owned.look() or self._marks is None:
            held = (*self._owned.layers, self._owned.outer)
            self._marks = GradientMarks([p for parameters in held for p in parameters])
        self._marks.mark()
        self._marked = True

    def moved(self) -> bool:
        """Whether gradients of this optimizer were written to since they were marked; so it is where they were not."""
        return not self._marked or self._marks is None or self._marks.moved()

    def leave_one(self) -> bool:
        """Leaves one gradient of zeros, which no step will see, if the optimizer has none at all; returns whether it
        had none.
        """
        self._owned.look()
        held = [*(self._owned.layers[layer] for layer in self._owned.mine), self._owned.outer]
        if any(p.grad is not None for parameters in held for p in parameters):
            return False
        self._left = True
        self._stand_in = min((p for parameters in held for p in parameters), key=nn.Parameter.numel)
        self._stand_in.grad = torch.zeros_like(self._stand_in)
        return True

    def _before_step(self, closure: Closure | None) -> Closure | None:
        if self._left:
            self._put_back()  # where the step before raised
            self._take_up()
        self._left = True
        owned = self._owned
        if not holds(self._optimizer.param_groups, owned.seen):
            owned.look()
        if closure is None:
            self._set_aside()
            return None
        self._before_closure()
        self._note_shown()

        def gated_closure() -> Any:
            self._undo_for_closure()
            loss = closure()
            self._set_aside()
            self._note_shown()
            return loss

        return gated_closure

    def _after_step(self) -> None:
        self._put_back()
        if self._watch.watches:
            self._watch.check()

    def _before_closure(self) -> None:
        """Some optimizers act on the gradients they find before they call the closure: sharpness-aware ones do."""
        self._set_aside()

    def _set_aside(self) -> None:
        selected, owned = self._selected(), self._owned
        flagged = self._nonfinite is not None and self._nonfinite.flagged()
        if flagged or self._watch.watches:
            self._set_aside_watched(selected, flagged)
        else:
            for layer in owned.mine:
                if not selected[layer]:
                    self._keep_from_step(owned.layers[layer])
        if self._sgd is not None:
            self._start_fused_momentum(self._sgd)

    def _set_aside_watched(self, selected: Sequence[bool], flagged: bool) -> None:
        """Where there is more to say than who is selected."""
        gated: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        for layer in self._owned.mine:
            (free if selected[layer] else gated).extend(self._owned.layers[layer])
        if flagged and self._nonfinite is not None:
            stepped = [*free, *self._owned.outer]
            if self._nonfinite.spoils(stepped, self.moved()):
                gated, free = [*gated, *stepped], []
        if self._watch.watches:
            self._watch.before(gated, [p for p in free if p.grad is not None])
        self._keep_from_step(gated)

    def _keep_from_step(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is not None:
                self._kept.append((parameter, gradient))
                parameter.grad = None

    def _take_up(self) -> None:
        """What was set aside before the step is from now on what the step must not see."""
        for parameter, gradient in self._withheld:
            parameter.grad = None
            self._kept.append((parameter, gradient))
        self._withheld.clear()
        stand_in, self._stand_in = self._stand_in, None
        if stand_in is not None:
            stand_in.grad = None

    def _start_fused_momentum(self, optimizer: torch.optim.SGD) -> None:
        """Steps those parameters by themselves that ``SGD(fused=True)`` steps for the first time: its kernel knows a
        first step of all parameters, not of some.
        """
        groups = [group["params"] for group in optimizer.param_groups if group["fused"] and group["momentum"]]
        running = [p for group in groups for p in group if p.grad is not None]
        if getattr(optimizer, "found_inf", None) is not None:
            start_momentum(optimizer, running)
        first = [p for p in running if optimizer.state.get(p, {}).get("momentum_buffer") is None]
        if 0 < len(first) < len(running):
            step_only(optimizer, {id(p) for p in first})
            self._keep_from_step(first)

    def _note_shown(self) -> None:
        """Takes note of a gradient that the optimizer is shown, to learn whether it clears it."""
        owned = self._owned
        held = (*(owned.layers[layer] for layer in owned.mine), owned.outer)
        shown = ((p, p.grad) for parameters in held for p in parameters)
        self._shown = next(((p, version_of(gradient)) for p, gradient in shown if gradient is not None), None)

    def _undo_for_closure(self) -> None:
        """A closure finds the gradients that were there: it clears them, or adds to those of earlier micro-batches.
        Where the optimizer itself has cleared what it was shown, as some that call their closure twice do, what was set
        aside is gone with it.
        """
        if self._shown is not None:
            shown, version = self._shown
            gradient = shown.grad
            if gradient is None or (version_of(gradient) != version and not held_here(gradient).any().item()):
                self._kept.clear()
        self._give_back()

    def _put_back(self) -> None:
        self._left = False
        self._give_back()

    def _give_back(self) -> None:
        for parameter, gradient in self._kept:
            if parameter.grad is None:
                parameter.grad = gradient
        self._kept.clear()


def selected_by_host(mask: Tensor) -> Callable[[], Sequence[bool]]:
    """What a :class:`Gate` is told of a selection: ``mask`` as it is at the moment it asks. On the host that is a view
    of the tensor's memory, so that of many optimizers none reads the numbers of all layers.
    """
    if mask.device.type != "cpu":
        return mask.tolist
    view: Sequence[bool] = mask.numpy().data  # type: ignore[assignment]  # it has no types of its own
    return lambda: view


def parameters_of(optimizer: torch.optim.Optimizer) -> set[int]:
    """The ids of the parameters that ``optimizer`` holds: layers may belong to several optimizers."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def step_only(optimizer: torch.optim.Optimizer, wanted: set[int]) -> None:
    """A step of ``optimizer`` over the parameters with these ids alone (see :func:`step_parts`)."""
    groups = [[p for p in group["params"] if id(p) in wanted] for group in optimizer.param_groups]
    step_parts(optimizer, list(enumerate(groups)))


def step_parts(optimizer: torch.optim.Optimizer, parts: Iterable[tuple[int, list[nn.Parameter]]]) -> None:
    """A step of ``optimizer`` over these parameters of its groups alone, each group given by its place. Of the
    optimizers of torch only: their ``step`` changes no group. Hooks and schedulers, which belong to the user's one
    call, hear nothing of it.
    """
    groups = optimizer.param_groups
    try:
        optimizer.param_groups = [{**groups[place], "params": parameters} for place, parameters in parts]
        with torch.no_grad():
            inspect.unwrap(type(optimizer).step)(optimizer)
    finally:
        optimizer.param_groups = groups
