"""The step in compiled kernels, for parameters on CUDA devices."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ..errors import LayerSelectError
from ..rules import Rule
from ..utils.device_copies import to_device
from .base import CoreSettings, Outcome, StepInputs
from .cuda import CudaCore
from .history import History
from .multi_device import SeveralDevicesCore


def _device_of(parameter: Tensor) -> object:
    return parameter.device


class DeviceCore:
    """Makes the step in compiled kernels: the device measures, decides and records, and nothing waits for it."""

    decides_on_device = True

    def __init__(self, settings: CoreSettings) -> None:
        self._device, self._length = settings.device, len(settings.layer_names)
        several = len({_device_of(parameter) for parameter in settings.parameters}) > 1
        make = partial(SeveralDevicesCore, device_of=_device_of) if several else CudaCore
        self._core: SeveralDevicesCore | CudaCore = make(
            settings.parameters,
            settings.groups,
            self._length,
            score=settings.score,
            capture=settings.capture,
            warmup=settings.schedule.warmup,
            interval=settings.schedule.interval,
            owner=settings.owner,
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
    def parameter_sums(self) -> Tensor:
        return self._core.parameter_sums

    @property
    def taken(self) -> bool:
        return self._core.taken

    def written(self) -> bool:
        return self._core.written()

    def step(self, inputs: StepInputs) -> Outcome:
        """Closes a step. Nothing waits for the device."""
        rule = inputs.rule
        if rule is not self._rule or rule.revision != self._revision:
            self._rule, self._revision = rule, rule.revision
            self._options = rule.kernel_options(self._length, self._device)
        options = self._options
        if options is None:
            if rule.uses_scores:
                raise LayerSelectError(
                    f"the kernels do not know rule {rule.name!r}: build the selector with it, or with backend='torch'"
                )
            options = {"kind": "fixed", "fixed": self._fixed_mask(inputs.preselected)}
        self.history.expect()
        closed = self._core.step(options, inputs.active, inputs.scaling, first_layer=inputs.first_layer)
        self.unmeasured = self._core.unmeasured(inputs.active)
        return Outcome.CLOSED if closed else Outcome.NO_GRADIENT

    def close(self) -> None:
        self._core.close()
        self.history.close()

    def _fixed_mask(self, preselected: Tensor | None) -> Tensor:
        """The selection on the device that a rule without scores asks for.

        The device gets it in every step, since it alone knows which steps were skipped, and so whether this one
        selects. Without a new selection its last one stays in force.
        """
        if preselected is None:
            return self.state["decided"]
        if preselected is not self._preselected:
            self._preselected, self._preselected_here = preselected, to_device(preselected, self._device)
        assert self._preselected_here is not None
        return self._preselected_here
