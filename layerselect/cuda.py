"""The step of a selector on one device: norms, selection and gate, and no wait for the device anywhere.

:class:`CudaCore` measures and decides, :func:`layerselect.device_gates.make_gate` ties an optimizer to the decision, and
:class:`layerselect.mirror.Mirror` brings it to the host, some steps late, for mode ``freeze``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _backend
from .scaling import Scaling
from .sharding import SpreadSums, held_gradient, held_here


class CudaCore:
    """Measures L layers and decides, on the device: at most L + 1 launches in a step with ``capture="backward"``, one to
    three with ``"step"``, none of them waited for.

    Of sharded parameters (``DTensor``, with ``capture="step"``) each process measures what it holds, and between sums and
    selection all processes add up, on the same stream: every process has to call :meth:`step` in every step.

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
            ``total_norm`` float64 [], ``group_sums`` float64 [L + 1], and the ring ``history_{step,threshold,scores,mask,trained}``.

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
        self._has_outer = num_layers in self._groups
        self._spread = SpreadSums.of(self._parameters, self._parameters[0].device)
        self._core = native.DeviceCore(
            [held_here(p) for p in self._parameters],
            self._groups,
            num_layers,
            score,
            history_rows,
            self._numels() if self._spread else None,
        )
        self._monitor = None
        if capture == "backward":
            self._monitor = native.GradientMonitor(
                self._parameters, self._groups, num_layers + 1, owner=owner, core=self._core
            )
        self.state: dict[str, Tensor] = self._core.state
        self._sums = torch.zeros(len(self._parameters) + 1, dtype=torch.float64, device=self._parameters[0].device)
        self._alive: list[Tensor] = []

    @property
    def launches(self) -> int:
        """Kernel launches of the last step."""
        return self._core.launches

    def step(
        self, rule: dict[str, Any], active: Sequence[bool], scaling: Scaling | None = None, *, first_layer: int = 0
    ) -> bool:
        """Closes the step on the current stream. Waits for nothing.

        Args:
            rule: from :func:`layerselect.device_rules.device_rule`.
            active: for each layer, whether it took gradients; the others' scores are held.
            first_layer: the layers below it take no part in the selection.
            scaling: how the gradients are scaled, on the device. With it, a gradient that is not finite, or a ``found_inf``
                that is not 0, makes the kernel change nothing but ``total_norm`` and ``group_sums``.

        Returns:
            False, and nothing was done, if no parameter has a gradient.
        """
        if self._monitor is not None:
            measured = self._monitor.finish(scaling is not None and scaling.written)
        else:
            gradients = [held_gradient(p) for p in self._parameters]
            measured = sorted({g for g, grad in zip(self._groups, gradients, strict=True) if grad is not None})
            self._core.hold_all(gradients)
            if self._spread is not None:
                measured = self._add_up(self._spread, sum(gradient is not None for gradient in gradients))
        if not measured:
            return False
        inv_scale = outer_inv_scale = skip = None
        if scaling is not None:
            inv_scale = scaling.factor(of_now=self._monitor is None or self._monitor.remeasured)
            # The outer gradients are summed by the closing launch, as they are now.
            outer_inv_scale = scaling.factor(of_now=True) if self._has_outer else None
            skip = scaling.found_inf
        self._core.close_step(
            measured=measured,
            active=list(active),
            first_layer=first_layer,
            warmup=self._warmup,
            interval=self._interval,
            inv_scale=inv_scale,
            outer_inv_scale=outer_inv_scale,
            skip=skip,
            skip_nonfinite=scaling is not None,
            **rule,
        )
        # Until the next step, by when the device has read them.
        self._alive = [
            t for t in (inv_scale, outer_inv_scale, skip, rule.get("fixed"), rule.get("costs")) if t is not None
        ]
        return True

    def _add_up(self, spread: SpreadSums, present: int) -> list[int]:
        """Makes sums over all processes of those of what is held here; returns the groups that were measured."""
        self._core.sum_held()
        # Processes may hold pieces of other sizes and so have other plans: they meet in the order of the parameters.
        order = self.state["order"]
        self._sums[:-1].index_copy_(0, order, self.state["sqnorms"])
        self._sums[-1].fill_(present)
        spread.add_up(self._sums)
        torch.index_select(self._sums, 0, order, out=self.state["sqnorms"])
        # What no process has a gradient of counts 0, as it should.
        return sorted(set(self._groups)) if present or self._others_have_gradients() else []

    def _others_have_gradients(self) -> bool:
        """Waits for the device; asked only in a process without a single gradient, so in no ordinary step."""
        return bool(self._sums[-1] > 0)

    def _numels(self) -> list[float]:
        numels = [0.0] * (self.num_layers + 1)
        for group, parameter in zip(self._groups, self._parameters, strict=True):
            numels[group] += parameter.numel()
        return numels[:-1]

    def close(self) -> None:
        """Removes the hooks; ``state`` keeps its values."""
        if self._monitor is not None:
            self._monitor.close()
