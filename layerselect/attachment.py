"""What ties optimizers to a selection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .core import Core
from .device_gates import make_gate
from .gating import Gate
from .layer_freezer import LayerFreezer
from .optimizer_watch import OptimizerWatch, SeenGradients
from .state_reset import StateReset


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
        self.watch = OptimizerWatch(optimizers, layers, names, seen=seen, modules=modules, governs=mode != "observe")
        self._hooks: list[Gate | StateReset] = []
        if mode != "observe":
            # In mode "freeze" too. Where the host decides, unselected layers have no gradients, and the gate sees to it that this
            # is enough. Of several optimizers a scaler may skip one alone: then nothing was dropped, and the others are gated.
            for optimizer in optimizers:
                if core.decides_on_device:
                    gate = make_gate(optimizer, layers, core.state)
                else:
                    gate = Gate(optimizer, layers, core.state["mask"].tolist)
                self._hooks.append(gate)
                if on_freeze == "reset":  # after the gate, which puts back what it kept
                    self._hooks.append(StateReset(optimizer, layers, gate, self._goes_on))

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


def needs_gates(mode: str, core: Core) -> bool:
    """Whether a selection has no effect without an optimizer to gate. In mode ``freeze`` too where the device decides: the host
    learns too late which of the computed gradients are not to be used."""
    return mode == "gate" or (mode == "freeze" and core.decides_on_device)
