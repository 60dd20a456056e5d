"""What ties optimizers to a selection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from ..core.base import Core
from ..modes.device_gate import make_gate
from ..modes.freeze import LayerFreezer
from ..modes.gate import Gate, selected_by_host
from ..modes.nonfinite import NonFinite
from ..modes.optimizer_watch import OptimizerWatch
from ..modes.scaler_steps import leave_something
from ..modes.seen_gradients import SeenGradients
from ..modes.state_reset import StateReset
from ..modes.step_hooks import StepHooks


class Attachment:
    """Hooks on the steps of a selector's optimizers: gates, and what forgets the state of frozen layers.

    Args:
        optimizers: plain ones, without wrappers.
        layers: for each layer, its parameters.
        names, modules: of the layers.
        seen: the gradients that the selector has measured last.
        mode, on_freeze: the selector's.
        core: whose selection governs the steps.
        freezer: says which layers take gradients next.

    Raises:
        LayerSelectError: an optimizer is of a kind that cannot leave parameters out (``LBFGS``).
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        layers: Sequence[Sequence[nn.Parameter]],
        *,
        names: Sequence[str],
        modules: Sequence[nn.Module],
        seen: SeenGradients,
        mode: str,
        on_freeze: str,
        core: Core,
        freezer: LayerFreezer,
    ) -> None:
        self.optimizers = list(optimizers)
        self._core = core
        self._freezer = freezer
        steps = [StepHooks(optimizer) for optimizer in optimizers]
        self.watch = OptimizerWatch(steps, layers, names, seen=seen, modules=modules, governs=mode != "observe")
        self._hooks: list[Gate | StateReset] = []
        self._gates: list[Gate] = []
        outer = outer_parameters(optimizers, layers)
        self._nonfinite = NonFinite(core.state, len(layers), outer, seen, on_device=core.decides_on_device)
        if mode != "observe":
            # In mode "freeze" too. Where the host decides, unselected layers have no gradients, and the gate sees to it
            # that this is enough. Of several optimizers a scaler may skip one alone: then nothing was dropped, and the
            # others are gated.
            selected = selected_by_host(core.state["mask"])
            for each in steps:
                reset = StateReset(each, self._goes_on) if on_freeze == "reset" else None
                if core.decides_on_device:
                    all_state = mode == "gate"
                    gate = make_gate(
                        each.optimizer, layers, core.state, self._nonfinite, begin_all=all_state, hooks=each
                    )
                else:
                    gate = Gate(each.optimizer, layers, selected, self._nonfinite, each)
                self._hooks.append(gate)
                self._gates.append(gate)
                if reset is not None:
                    reset.tell(gate)
                    self._hooks.append(reset)

    def selector_stepped(self, grad_scale: float | Tensor | GradScaler | None) -> None:
        """The core has closed a step: what was known of the last one is not to be used again.

        Args:
            grad_scale: as in :meth:`layerselect.FastSelector.step`.
        """
        self._nonfinite.forget()
        self.watch.selector_stepped(grad_scale)

    def measured(self, grad_scale: object) -> None:
        """A step was measured, and what the host drops of its gradients is gone.

        Args:
            grad_scale: as in :meth:`layerselect.FastSelector.step`.
        """
        if not self._gates:
            return
        scaler = grad_scale if isinstance(grad_scale, GradScaler) else None
        scaled = grad_scale is not None and (scaler is None or scaler.is_enabled())
        # A host looks at what is about to be stepped; a device has to be told what may have happened.
        written = self._core.decides_on_device and self._core.written()
        bad = self._nonfinite.measured(may_skip=scaled, written=written)
        for gate in self._gates:
            gate.begin()
            if bad:
                gate.withhold(bad)
            if self._nonfinite.matters:
                gate.mark()
        if scaler is not None:
            leave_something(scaler, self._gates)

    def clipping(self) -> list[Gate]:
        """The gates whose gradients are still those that were measured; to be passed to :meth:`clipped`.

        Call it before the selector itself writes to the gradients, so that its own writing is not taken for another's.
        """
        return [gate for gate in self._gates if self._nonfinite.matters and not gate.moved()]

    def clipped(self, as_measured: list[Gate]) -> None:
        """The selector has written to the gradients. ``as_measured`` is what :meth:`clipping` returned before."""
        for gate in as_measured:
            gate.mark()

    def close(self) -> None:
        """Removes the hooks."""
        self.watch.close()
        for hook in self._hooks:
            hook.close()

    def _goes_on(self) -> list[bool]:
        """The layers that train on after this step, as far as the host can know."""
        active = self._freezer.active
        if self._core.decides_on_device:
            return active
        return [on and wanted for on, wanted in zip(active, self._core.state["wanted"].tolist(), strict=True)]


def outer_parameters(
    optimizers: Sequence[torch.optim.Optimizer], layers: Sequence[Sequence[nn.Parameter]]
) -> list[nn.Parameter]:
    """What the optimizers hold besides the layers."""
    inside = {id(p) for parameters in layers for p in parameters}
    held = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    return [p for p in held if id(p) not in inside]


def needs_gates(mode: str, core: Core) -> bool:
    """Whether a selection has no effect without an optimizer to gate. In mode ``freeze`` too where the device decides:
    the host learns too late which of the computed gradients are not to be used.
    """
    return mode == "gate" or (mode == "freeze" and core.decides_on_device)
