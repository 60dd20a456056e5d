"""The step of a selector on one device: norms, selection and gate, and no wait for the device anywhere.

:class:`CudaCore` measures and decides, :func:`layerselect.modes.device_gate.make_gate` ties an optimizer to the
decision, and :class:`layerselect.utils.mirror.Mirror` brings it to the host, some steps late, for mode ``freeze``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _backend
from ..distributed.engine_seen import EngineSeen
from ..distributed.sharding import ShardedSums, held_gradient, held_here
from ..utils.device_copies import to_device
from .gradient_watch import GradientWatch
from .scaling import Scaling


class CudaCore:
    """Measures L layers and decides, on the device, and nothing is waited for. With ``capture="backward"`` there are at
    most L + 2 launches in a step: one for each layer, one for the outer parameters and the closing one. With ``"step"``
    there are two: the norms when the backward pass has ended, and the closing one. More than 416 tensors (4,000 with
    CUDA 13) in one launch make it several, and each backward pass of an accumulated gradient is measured for itself.

    Of sharded parameters (``DTensor``, with ``capture="step"``) each process measures what it holds, and between sums
    and selection all processes add up, on the same stream: every process has to call :meth:`step` in every step.

    Args:
        parameters: leaves on one device, none of them replaced later.
        groups: the layer of each parameter; L for outer parameters.
        num_layers: L, at most 1,024.
        score: ``"l2"``, ``"rms"`` or ``"sqrt_sum"`` (:mod:`layerselect.core.scores`).
        capture: ``"backward"`` or ``"step"``; ``None`` measures nothing, for sums that come in through :meth:`decide`.
        warmup, interval: as in :class:`layerselect.FastSelector`; counted on the device.
        history_rows: rows of the ring that records the steps.
        owner: the model, with whose end the hooks end.

    Attributes:
        state: live tensors on the device by name: ``scores`` float32 [L], ``status`` uint8 [L], ``nonfinite`` int64
            [L], ``decided``, ``mask`` and ``wanted`` bool [L], ``gate`` float32 [L + 1] (1 leaves a layer alone, in the
            style of ``found_inf``), ``frequency`` and ``trained_frequency`` int64 [L], ``step`` int64 [], ``threshold``
            float32 [], ``total_norm`` float64 [], ``group_sums`` float64 [L + 1], and the ring
            ``history_{step,threshold,scores,mask,trained}``.
        measured: the groups that had a gradient in the last step, as far as the host can know.

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
        capture: str | None = "backward",
        warmup: int = 0,
        interval: int = 1,
        history_rows: int = 512,
        owner: nn.Module | None = None,
    ) -> None:
        native = _backend.load("native", "cpu")
        self.num_layers = num_layers
        self._warmup, self._interval = warmup, interval
        self._parameters, self._groups = list(parameters), list(groups)
        self._device = self._parameters[0].device
        self._sharded = ShardedSums.of(self._parameters, self._device, columns=2)
        self._core = native.DeviceCore(
            [held_here(p) for p in self._parameters],
            self._groups,
            num_layers,
            score,
            history_rows,
            self._numels() if self._sharded else None,
        )
        self._monitor = None
        self._watch: GradientWatch | None = None
        self._engine: EngineSeen | None = None
        if capture == "backward":
            self._monitor = native.GradientMonitor(
                self._parameters, self._groups, num_layers + 1, owner=owner, core=self._core
            )
        elif capture == "step":
            self._engine = EngineSeen(owner, sharded=self._sharded is not None)
            self._watch = GradientWatch(
                self._parameters,
                self._groups,
                num_layers + 1,
                self._launch,
                by_engine=self._engine.makes_final,
            )
        self.state: dict[str, Tensor] = self._core.state
        self.measured: list[int] = []
        self._launched: set[int] = set()  # groups, since the last step began
        self._summed = False  # "sqnorms" holds the sums by tensor of what was launched
        self._sums = torch.zeros(2 * len(self._parameters), dtype=torch.float64, device=self._device)
        self._present: tuple[list[bool], Tensor] = ([], self._sums[:0])
        self._alive: list[Tensor] = []

    @property
    def launches(self) -> int:
        """Kernel launches of the last step."""
        count: int = self._core.launches
        return count

    @property
    def parameter_sums(self) -> Tensor:
        """float64 [P], the sum of squares of each parameter's gradient when its group was measured last; the closing
        launch writes it anyway, in the order of its plan. Negative: there was none.
        """
        sums = self.state["sqnorms"]
        return torch.zeros_like(sums).index_copy_(0, self.state["order"], sums)

    @property
    def taken(self) -> bool:
        """Whether a gradient was gone when the backward pass of the last step ended."""
        source = self._monitor or self._watch
        return source is not None and source.taken

    def written(self) -> bool:
        """Whether a gradient was written to in place, or replaced, since it was measured. Waits for nothing."""
        source = self._monitor or self._watch
        return source is not None and source.written()

    def unmeasured(self, active: Sequence[bool]) -> list[bool]:
        """Which of the active layers had no gradient in the last step. The host does not know that of sharded ones."""
        if self._sharded is not None:
            return [False] * len(active)
        measured = set(self.measured)
        return [on and layer not in measured for layer, on in enumerate(active)]

    def step(
        self, rule: dict[str, Any], active: Sequence[bool], scaling: Scaling | None = None, *, first_layer: int = 0
    ) -> bool:
        """Closes the step on the current stream. Waits for nothing.

        Args:
            rule: from :meth:`layerselect.Rule.kernel_options`.
            active: for each layer, whether it was to take gradients; the others' scores are held.
            first_layer: the layers below it take no part in the selection.
            scaling: how the gradients are scaled, on the device. With it, a gradient that is not finite, or a
                ``found_inf`` that is not 0, makes the kernel change nothing but ``total_norm`` and ``group_sums``.

        Returns:
            False, and nothing was done, if no parameter has a gradient.
        """
        written = scaling is not None and scaling.written
        self._launched = set()
        if self._monitor is not None:
            self.measured = self._monitor.finish(written)
            self._launched.update(self._groups[i] for i in self._monitor.late)
        elif self._watch is not None and self._engine is not None:
            self.measured = self._watch.finish(written, anew=self._engine.unseen())
        # What was launched just now is of this moment.
        late = self._launched
        if self._watch is not None and not written:
            # So is what no hook reported, as far as anybody can tell: it may be all zero, and the device looks.
            late = late | (set(self.measured) - self._watch.touched)
        if self._sharded is not None:
            self.measured = self._add_up(self._sharded)
        if not self.measured:
            return False
        self.decide(rule, active, scaling, measured=self.measured, late=sorted(late), first_layer=first_layer)
        return True

    def decide(
        self,
        rule: dict[str, Any],
        active: Sequence[bool],
        scaling: Scaling | None,
        *,
        measured: Sequence[int],
        late: Sequence[int] = (),
        first_layer: int = 0,
    ) -> None:
        """The closing launch of :meth:`step`. With ``capture=None`` the caller has filled ``state["sqnorms"]``; there a
        negative number says that there is no gradient.

        Args:
            measured: the groups that may have a gradient.
            late: those whose sums are of this moment.
        """
        inv_scale = late_inv_scale = skip = None
        if scaling is not None:
            inv_scale = scaling.factor(of_now=False)
            late_inv_scale = scaling.factor(of_now=True) if late else None
            skip = scaling.found_inf
        if self._monitor is None and self._watch is None:
            self._core.take_sums()
        self._core.close_step(
            measured=list(measured),
            active=list(active),
            first_layer=first_layer,
            warmup=self._warmup,
            interval=self._interval,
            inv_scale=inv_scale,
            late=list(late),
            late_inv_scale=late_inv_scale,
            skip=skip,
            skip_nonfinite=scaling is not None,
            **rule,
        )
        # Until the next step, by when the device has read them.
        self._alive = [
            t for t in (inv_scale, late_inv_scale, skip, rule.get("fixed"), rule.get("costs")) if t is not None
        ]

    @torch.no_grad()
    def _launch(self, due: list[int]) -> None:
        """Launches the sums of the groups of these parameters."""
        groups = {self._groups[i] for i in due}
        self._launched |= groups
        gradients = [
            held_gradient(p) if group in groups else None
            for p, group in zip(self._parameters, self._groups, strict=True)
        ]
        self._summed = self._sharded is not None and len(due) == len(self._parameters)
        if self._summed:
            self._core.hold_all(gradients)
            self._core.sum_held()
        else:
            self._core.launch_groups(sorted(groups), gradients)

    def _add_up(self, sharded: ShardedSums) -> list[int]:
        """Makes sums over all processes of those of what is held here; returns the groups that may have a gradient."""
        if not self._summed:
            self._core.sum_held()
        self._summed = False
        # Processes may hold pieces of other sizes and so have other plans: they meet in the order of the parameters.
        order, count = self.state["order"], len(self._parameters)
        sums, present = self._sums[:count], self._sums[count:]
        sums.index_copy_(0, order, self.state["sqnorms"])
        here = [p.grad is not None for p in self._parameters]
        if here != self._present[0]:
            self._present = here, to_device(torch.tensor(here, dtype=torch.float64), self._device)
        present.copy_(self._present[1], non_blocking=True)
        sharded.add_up(self._sums)
        known = torch.where(present > 0, sums, -1.0)
        torch.index_select(known, 0, order, out=self.state["sqnorms"])
        return sorted(set(self._groups)) if any(here) or self._others_have_gradients() else []

    def _others_have_gradients(self) -> bool:
        """Waits for the device; asked only in a process without a single gradient, so in no ordinary step."""
        return bool((self._sums[len(self._parameters) :] > 0).any())

    def _numels(self) -> list[float]:
        numels = [0.0] * (self.num_layers + 1)
        for group, parameter in zip(self._groups, self._parameters, strict=True):
            numels[group] += parameter.numel()
        return numels[:-1]

    def close(self) -> None:
        """Removes the hooks; ``state`` keeps its values."""
        for part in (self._monitor, self._watch, self._engine):
            if part is not None:
                part.close()
