"""The step in plain PyTorch, around the backend's sums of squares and the rule's own ``select``."""

from __future__ import annotations

import torch
from torch import Tensor

from ..rules import EXCLUDED, MEASURED, Rule
from .base import CoreSettings, Outcome, StepInputs, check_mask
from .capture import make_capture
from .history import History
from .scores import LayerScores

#: What a rule reports about its selection, float32 [] each; NaN where it reports nothing.
_RULE_OUTPUTS = ("threshold", "kept_share", "step_cost")


class HostCore:
    """Makes the step in plain PyTorch: the core of the CPU."""

    decides_on_device = False

    def __init__(self, settings: CoreSettings) -> None:
        device, length = settings.device, len(settings.layer_names)
        self._schedule = settings.schedule
        backend = settings.backend if device.type == "cpu" else "torch"
        self._capture = make_capture(
            settings.capture, settings.parameters, settings.groups, length + 1, backend, settings.owner
        )
        self._scores = LayerScores(settings.score, settings.groups, settings.numels, device)
        self.history = History(settings.layer_names, device, keep=settings.history)
        self._step = torch.zeros((), dtype=torch.int64)
        self.state = {
            **self._scores.tensors,
            "step": self._step,
            "decided": torch.ones(length, dtype=torch.bool, device=device),
            "mask": torch.ones(length, dtype=torch.bool, device=device),
            "wanted": torch.ones(length, dtype=torch.bool, device=device),
            **{name: torch.full((), float("nan"), dtype=torch.float32, device=device) for name in _RULE_OUTPUTS},
            "frequency": torch.zeros(length, dtype=torch.int64, device=device),
            "trained_frequency": torch.zeros(length, dtype=torch.int64, device=device),
        }
        self.unmeasured = [False] * length

    @property
    def parameter_sums(self) -> Tensor:
        return self._scores.parameter_sums

    @property
    def taken(self) -> bool:
        return self._capture.taken

    def written(self) -> bool:
        return self._capture.written()

    def step(self, inputs: StepInputs) -> Outcome:
        """Closes a step."""
        active, scaling = inputs.active, inputs.scaling
        measured_groups = self._capture.finish(scaling is not None and scaling.written)
        measured = set(measured_groups)
        self.unmeasured = [on and layer not in measured for layer, on in enumerate(active)]
        if not measured_groups:
            return Outcome.NO_GRADIENT
        state, step = self.state, int(self._step)  # counted on the host
        late = self._capture.late
        then = None if scaling is None else scaling.factor(of_now=False)
        now = scaling.factor(of_now=True) if scaling is not None and late else None
        self._scores.measure(self._capture.sqnorms, measured_groups, then, late, now)
        if scaling is not None and bool(scaling.skips(self.state["total_norm"])):
            return Outcome.SKIPPED
        wished = torch.tensor(active, device=state["mask"].device)
        trained = self._scores.update(wished)
        state["status"][: inputs.first_layer] = EXCLUDED
        selects = self._schedule.selects_in(step)
        if self._schedule.warms_up_in(step):
            state["decided"].fill_(True)
        elif selects:
            self._decide(inputs.rule, inputs.preselected)
        # Between two selections the last one stays in force, without the layers that are not finite now.
        torch.logical_and(state["decided"], state["status"] != EXCLUDED, out=state["mask"])
        # A layer that was left out (not finite, never measured, without a gradient) must be measured again.
        torch.logical_or(state["decided"], state["status"] != MEASURED, out=state["wanted"])
        state["wanted"] |= wished & ~trained
        state["wanted"][: inputs.first_layer] = False
        if selects:
            state["frequency"] += state["mask"]
            state["trained_frequency"] += state["mask"] & trained
        self.history.record(
            step=step, scores=state["scores"], mask=state["mask"], trained=trained, threshold=state["threshold"]
        )
        self._step += 1
        return Outcome.CLOSED

    def close(self) -> None:
        self._capture.close()
        self.history.close()

    def _decide(self, rule: Rule, preselected: Tensor | None) -> None:
        for name in _RULE_OUTPUTS:
            self.state[name].fill_(float("nan"))
        if preselected is not None:
            self.state["decided"].copy_(preselected)
            return
        # On the CPU this copies nothing. On a device without kernels of ours the host decides, and waits.
        selection = rule.select(self.state["scores"].cpu(), self.state["status"].cpu())
        check_mask(rule, getattr(selection, "mask", None), self.state["mask"].numel())
        self.state["decided"].copy_(selection.mask)
        for name in _RULE_OUTPUTS:
            value = getattr(selection, name)
            if value is not None:
                self.state[name].copy_(value)
