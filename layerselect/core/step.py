"""Which core makes the steps of a selector: the compiled one, or plain PyTorch."""

from __future__ import annotations

import logging

from ..rules import Rule
from .base import Core, CoreSettings
from .device_step import DeviceCore
from .host_step import HostCore

logger = logging.getLogger(__name__)


def make_core(settings: CoreSettings, rule: Rule) -> Core:
    """The core for the parameters' devices.

    The kernels cannot apply a rule of one's own that reads scores, nor measure a layer that is on several devices.
    PyTorch does the work there; it needs more launches, and the host waits for the device.
    """
    if _has_kernels(settings):
        if _sharded_layers(settings):
            logger.info("a layer is on several devices: PyTorch measures it, and the host waits")
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
