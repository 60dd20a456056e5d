"""What a step of the selector computes: scores, selection, counters, history; on the host's terms or on a device's.

Both cores offer the same: ``state``, live tensors by name (``scores``, ``status``, ``nonfinite``, ``total_norm``,
``group_sums``, ``step``, ``decided``, ``mask``, ``wanted``, ``threshold``, ``kept_share``, ``step_cost``, ``frequency``),
``history``, ``step()``, ``close()``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .capture import make_capture
from .cuda import CudaCore
from .device_rules import device_rule, to_device
from .errors import LayerSelectError
from .graph_capture import is_capturing
from .history import History
from .rules import EXCLUDED, MEASURED, Rule
from .scaling import Scaling
from .schedule import Schedule
from .scores import LayerScores
from .several_devices import SeveralDevicesCore

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

    def step(
        self, rule: Rule, drawn: Tensor | None, active: Sequence[bool], scaling: Scaling | None, *, first_layer: int = 0
    ) -> Outcome:
        """Closes a step.

        Args:
            rule: the rule in force.
            drawn: bool [L] on the host: the rule's latest selection, if it makes them without looking at scores.
            active: which layers took gradients; the others' scores are held.
            scaling: how the gradients are scaled; with it, one that is not finite skips the step.
            first_layer: the layers below it take no part in the selection.
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


def make_core(settings: CoreSettings, rule: Rule) -> Core:
    """The core for the parameters' devices. PyTorch does the work, with more launches and waiting for the device, where the
    kernels cannot: for rules of one's own that read scores, and for a layer that is spread over devices."""
    if _has_kernels(settings):
        if _spread_layers(settings):
            logger.info("a layer is spread over devices: PyTorch measures it, and the host waits")
        elif rule.uses_scores and device_rule(rule, len(settings.layer_names), settings.device) is None:
            logger.info("the kernels do not know rule %r: PyTorch applies it, with more launches", rule.name)
        else:
            return DeviceCore(settings)
    return HostCore(settings)


def _spread_layers(settings: CoreSettings) -> bool:
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
        self.history = History(settings.layer_names, device)
        self._step = torch.zeros((), dtype=torch.int64)
        self.state = {
            **self._scores.tensors,
            "step": self._step,
            "decided": torch.ones(length, dtype=torch.bool, device=device),
            "mask": torch.ones(length, dtype=torch.bool, device=device),
            "wanted": torch.ones(length, dtype=torch.bool, device=device),
            **{name: torch.full((), float("nan"), dtype=torch.float32, device=device) for name in _SAID},
            "frequency": torch.zeros(length, dtype=torch.int64, device=device),
        }

    def step(
        self, rule: Rule, drawn: Tensor | None, active: Sequence[bool], scaling: Scaling | None, *, first_layer: int = 0
    ) -> Outcome:
        measured_groups = self._capture.finish(scaling is not None and scaling.written)
        if not measured_groups:
            return Outcome.NO_GRADIENT
        state, step = self.state, int(self._step)  # counted on the host
        factor = None if scaling is None else scaling.factor(of_now=self._capture.remeasured)
        self._scores.measure(self._capture.sqnorms, measured_groups, factor)
        if scaling is not None and bool(scaling.skips(self.state["total_norm"])):
            return Outcome.SKIPPED
        trained = torch.tensor(active, device=state["mask"].device)
        self._scores.update(trained)
        state["status"][:first_layer] = EXCLUDED
        selects = self._schedule.selects_in(step)
        if self._schedule.warms_up_in(step):
            state["decided"].fill_(True)
        elif selects:
            self._decide(rule, drawn)
        # Between two selections the last one stands, less what is not finite now.
        torch.logical_and(state["decided"], state["status"] != EXCLUDED, out=state["mask"])
        # A layer left out because it was not finite, or never measured, must be measured again.
        torch.logical_or(state["decided"], state["status"] != MEASURED, out=state["wanted"])
        state["wanted"][:first_layer] = False
        if selects:
            state["frequency"] += state["mask"]
        self.history.record(
            step=step, scores=state["scores"], mask=state["mask"], trained=trained, threshold=state["threshold"]
        )
        self._step += 1
        return Outcome.CLOSED

    def close(self) -> None:
        self._capture.close()

    def _decide(self, rule: Rule, drawn: Tensor | None) -> None:
        for name in _SAID:
            self.state[name].fill_(float("nan"))
        if drawn is not None:
            self.state["decided"].copy_(drawn)
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
        self.history = History(settings.layer_names, self._device, ring)
        self._rule: Rule | None = None
        self._revision = 0  # of the rule, when the options were made
        self._options: dict[str, Any] | None = None
        self._drawn: Tensor | None = None
        self._drawn_here: Tensor | None = None

    @property
    def launches(self) -> int:
        """Kernel launches of the last step."""
        return self._core.launches

    def step(
        self, rule: Rule, drawn: Tensor | None, active: Sequence[bool], scaling: Scaling | None, *, first_layer: int = 0
    ) -> Outcome:
        if rule is not self._rule or rule.revision != self._revision:
            self._rule, self._revision = rule, rule.revision
            self._options = device_rule(rule, self._length, self._device)
        options = self._options
        if options is None:
            if rule.uses_scores:
                raise LayerSelectError(
                    f"the kernels do not know rule {rule.name!r}: build the selector with it, or with backend='torch'"
                )
            options = {"kind": "fixed", "fixed": self._standing(drawn)}
        if not is_capturing(
            self._device
        ):  # a copy to the host would be repeated by each replay, into memory given back long ago
            self.history.expect()
        closed = self._core.step(options, active, scaling, first_layer=first_layer)
        return Outcome.CLOSED if closed else Outcome.NO_GRADIENT

    def close(self) -> None:
        self._core.close()

    def _standing(self, drawn: Tensor | None) -> Tensor:
        """The drawn selection on the device. It is handed over in every step: whether this one selects is for the device to
        say, since steps that are skipped are not counted there. Without a draw its own selection stands."""
        if drawn is None:
            return self.state["decided"]
        if drawn is not self._drawn:
            self._drawn, self._drawn_here = drawn, to_device(drawn, self._device)
        assert self._drawn_here is not None
        return self._drawn_here


def check_mask(rule: Rule, mask: Any, length: int) -> None:
    """Raises LayerSelectError unless ``mask`` is bool [length]."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (length,):
        raise LayerSelectError(f"rule {rule.name!r} returned no bool mask of {length} layers: {mask!r}")
