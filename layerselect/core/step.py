"""What a step of the selector computes: scores, selection, counters, history; on the host's terms or on a device's.

Both cores offer the same: ``state``, live tensors by name (``scores``, ``status``, ``nonfinite``, ``total_norm``,
``group_sums``, ``step``, ``decided``, ``mask``, ``wanted``, ``threshold``, ``kept_share``, ``step_cost``,
``frequency``, ``trained_frequency``), ``history``, ``unmeasured``, ``step()``, ``written()``, ``close()``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import LayerSelectError
from ..rules import EXCLUDED, MEASURED, Rule
from ..utils.device_copies import to_device
from .capture import make_capture
from .cuda import CudaCore
from .history import DEFAULT_ROWS, History
from .multi_device import SeveralDevicesCore
from .scaling import Scaling
from .schedule import Schedule
from .scores import LayerScores

logger = logging.getLogger(__name__)

#: What a rule says of its selection, float32 [] each; NaN where it says nothing.
_SAID = ("threshold", "kept_share", "step_cost")


class Outcome(Enum):
    """What became of a step."""

    CLOSED = auto()  #: on a device it may also be skipped there: the host is not told
    SKIPPED = auto()  #: the optimizer will skip it: norms were taken, and nothing else happened
    NO_GRADIENT = auto()  #: no parameter has a gradient, so nothing was done


class Core(Protocol):
    """Measures and decides."""

    state: dict[str, Tensor]
    history: History
    decides_on_device: bool  #: whether the host would have to wait to know the selection
    #: Which active layers had no gradient in the last step, as far as the host can know. They keep their scores, and
    #: are to take gradients in the next step; the device says the same, later, in ``wanted``.
    unmeasured: list[bool]
    taken: bool  #: whether a gradient was gone when the backward pass before the last step ended

    def step(
        self,
        rule: Rule,
        preselected: Tensor | None,
        active: Sequence[bool],
        scaling: Scaling | None,
        *,
        first_layer: int = 0,
    ) -> Outcome:
        """Closes a step.

        Args:
            rule: the rule in force.
            preselected: bool [L] on the host: the rule's latest selection, if it makes them without looking at scores.
            active: which layers were to take gradients; the others' scores are held, and those of layers that took
                none.
            scaling: how the gradients are scaled; with it, one that is not finite skips the step.
            first_layer: the layers below it take no part in the selection.
        """
        ...

    def written(self) -> bool:
        """Whether a gradient was written to in place (clipped, say), or replaced, since it was measured. Nothing
        waits.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class CoreSettings:
    """What a core is built for."""

    parameters: list[nn.Parameter]
    groups: list[int]  #: the layer of each parameter; L for outer parameters
    layer_names: list[str]
    numels: list[int]
    device: torch.device
    score: str
    capture: str
    backend: str
    schedule: Schedule
    owner: nn.Module
    history: int | str | Path = DEFAULT_ROWS


def make_core(settings: CoreSettings, rule: Rule) -> Core:
    """The core for the parameters' devices. PyTorch does the work, with more launches and waiting for the device, where
    the kernels cannot: for rules of one's own that read scores, and for a layer that is spread over devices.
    """
    if _has_kernels(settings):
        if _sharded_layers(settings):
            logger.info("a layer is spread over devices: PyTorch measures it, and the host waits")
        elif rule.uses_scores and rule.kernel_options(len(settings.layer_names), settings.device) is None:
            logger.info("the kernels do not know rule %r: PyTorch applies it, with more launches", rule.name)
        else:
            return DeviceCore(settings)
    return HostCore(settings)


def _sharded_layers(settings: CoreSettings) -> bool:
    places = {
        (group, parameter.device)
        for group, parameter in zip(settings.groups, settings.parameters, strict=True)
        if group < len(settings.layer_names)
    }
    return len(places) > len({group for group, _ in places})


def _has_kernels(settings: CoreSettings) -> bool:
    return settings.backend == "native" and all(p.device.type == "cuda" for p in settings.parameters)


def _device_of(parameter: Tensor) -> object:
    return parameter.device


class HostCore:
    """The step in plain PyTorch around the backend's norm pass and rules: the core of the CPU."""

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
            **{name: torch.full((), float("nan"), dtype=torch.float32, device=device) for name in _SAID},
            "frequency": torch.zeros(length, dtype=torch.int64, device=device),
            "trained_frequency": torch.zeros(length, dtype=torch.int64, device=device),
        }
        self.unmeasured = [False] * length

    @property
    def taken(self) -> bool:
        return self._capture.taken

    def written(self) -> bool:
        return self._capture.written()

    def step(
        self,
        rule: Rule,
        preselected: Tensor | None,
        active: Sequence[bool],
        scaling: Scaling | None,
        *,
        first_layer: int = 0,
    ) -> Outcome:
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
        state["status"][:first_layer] = EXCLUDED
        selects = self._schedule.selects_in(step)
        if self._schedule.warms_up_in(step):
            state["decided"].fill_(True)
        elif selects:
            self._decide(rule, preselected)
        # Between two selections the last one stands, less what is not finite now.
        torch.logical_and(state["decided"], state["status"] != EXCLUDED, out=state["mask"])
        # A layer left out because it was not finite, never measured, or without a gradient, must be measured again.
        torch.logical_or(state["decided"], state["status"] != MEASURED, out=state["wanted"])
        state["wanted"] |= wished & ~trained
        state["wanted"][:first_layer] = False
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
        for name in _SAID:
            self.state[name].fill_(float("nan"))
        if preselected is not None:
            self.state["decided"].copy_(preselected)
            return
        # No copy on the CPU. On a device without kernels of ours the host decides, and waits.
        selection = rule.select(self.state["scores"].cpu(), self.state["status"].cpu())
        check_mask(rule, getattr(selection, "mask", None), self.state["mask"].numel())
        self.state["decided"].copy_(selection.mask)
        for name in _SAID:
            value = getattr(selection, name)
            if value is not None:
                self.state[name].copy_(value)


class DeviceCore:
    """The step in compiled kernels: measured, decided and recorded on the device, and nothing waits for it."""

    decides_on_device = True

    def __init__(self, settings: CoreSettings) -> None:
        self._device, self._length = settings.device, len(settings.layer_names)
        several = len({_device_of(parameter) for parameter in settings.parameters}) > 1
        options = {"device_of": _device_of} if several else {}
        self._core = (SeveralDevicesCore if several else CudaCore)(
            settings.parameters,
            settings.groups,
            self._length,
            score=settings.score,
            capture=settings.capture,
            warmup=settings.schedule.warmup,
            interval=settings.schedule.interval,
            owner=settings.owner,
            **options,
        )
        self.state = self._core.state
        ring = {name.removeprefix("history_"): t for name, t in self.state.items() if name.startswith("history_")}
        self.history = History(settings.layer_names, self._device, ring, settings.history)
        self._rule: Rule | None = None
        self._revision = 0  # of the rule, when the options were made
        self._options: dict[str, Any] | None = None
        self._preselected: Tensor | None = None
        self._preselected_here: Tensor | None = None

        self.unmeasured = [False] * self._length

    @property
    def launches(self) -> int:
        """Kernel launches of the last step."""
        return self._core.launches

    @property
    def taken(self) -> bool:
        return self._core.taken

    def written(self) -> bool:
        return self._core.written()

    def step(
        self,
        rule: Rule,
        preselected: Tensor | None,
        active: Sequence[bool],
        scaling: Scaling | None,
        *,
        first_layer: int = 0,
    ) -> Outcome:
        if rule is not self._rule or rule.revision != self._revision:
            self._rule, self._revision = rule, rule.revision
            self._options = rule.kernel_options(self._length, self._device)
        options = self._options
        if options is None:
            if rule.uses_scores:
                raise LayerSelectError(
                    f"the kernels do not know rule {rule.name!r}: build the selector with it, or with backend='torch'"
                )
            options = {"kind": "fixed", "fixed": self._standing(preselected)}
        self.history.expect()
        closed = self._core.step(options, active, scaling, first_layer=first_layer)
        self.unmeasured = self._core.unmeasured(active)
        return Outcome.CLOSED if closed else Outcome.NO_GRADIENT

    def close(self) -> None:
        self._core.close()
        self.history.close()

    def _standing(self, preselected: Tensor | None) -> Tensor:
        """The preselected selection on the device. It is handed over in every step: whether this one selects is for the
        device to say, since steps that are skipped are not counted there. Without a draw its own selection stands.
        """
        if preselected is None:
            return self.state["decided"]
        if preselected is not self._preselected:
            self._preselected, self._preselected_here = preselected, to_device(preselected, self._device)
        assert self._preselected_here is not None
        return self._preselected_here


def check_mask(rule: Rule, mask: Any, length: int) -> Tensor:
    """Returns ``mask``; raises LayerSelectError unless it is bool [length]."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (length,):
        raise LayerSelectError(f"rule {rule.name!r} returned no bool mask of {length} layers: {mask!r}")
    return mask
