"""``on_freeze="reset"``: the memory of the optimizer follows the selection."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import LayerSelectError
from .gate import Gate
from .step_hooks import Closure, StepHooks

ON_FREEZE = ("keep", "reset")


class StateReset:
    """Drops the optimizer's state of the layers that stop training, once the last step that used it is over.

    A layer that returns starts as a fresh parameter does: the optimizer makes its state anew, with step count 0. On a
    device only a fused optimizer does that without a wait: others are gated by the host in such a step.

    Args:
        hooks: those on the steps of the optimizer whose ``state`` is dropped, parameter by parameter. The gate is added
            to them later: when a step is over, it puts back what it kept before anything is dropped.
        keep: called after each ``optimizer.step()``; says which layers go on.
    """

    def __init__(
        self,
        hooks: StepHooks,
        keep: Callable[[], Sequence[bool]],
    ) -> None:
        self._hooks = hooks
        self._keep = keep
        self._gate: Gate | None = None
        hooks.add(_same, self._after_step)

    def tell(self, gate: Gate) -> None:
        """Of what this gate's optimizer holds, state is dropped from now on; the gate is told."""
        self._gate = gate

    def close(self) -> None:
        self._hooks.remove(_same, self._after_step)

    def _after_step(self) -> None:
        if self._gate is None:
            return
        keep, state = self._keep(), self._hooks.optimizer.state
        for layer, parameters in self._gate.held():
            if not keep[layer]:
                for parameter in parameters:
                    state.pop(parameter, None)
                self._gate.state_dropped(parameters)


def _same(closure: Closure | None) -> Closure | None:
    return closure


def check_on_freeze(on_freeze: str, mode: str) -> None:
    """Raises LayerSelectError unless ``on_freeze`` is known, and has a meaning in ``mode``."""
    if on_freeze not in ON_FREEZE:
        raise LayerSelectError(f"on_freeze={on_freeze!r} is none of {', '.join(map(repr, ON_FREEZE))}")
    if on_freeze == "reset" and mode != "freeze":
        raise LayerSelectError(
            f"on_freeze='reset' has no meaning in mode {mode!r}, which freezes nothing and keeps the optimizer's "
            "state of unselected layers bit for bit: use mode='freeze', or leave on_freeze='keep'"
        )
