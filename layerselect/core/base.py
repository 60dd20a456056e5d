"""What a step of the selector is: what goes in, what comes out, and what both cores offer.

:class:`~layerselect.core.host_step.HostCore` makes a step in plain PyTorch,
:class:`~layerselect.core.device_step.DeviceCore` in compiled kernels, and :func:`~layerselect.core.step.make_core`
picks one of them.
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
from ..rules import Rule
from .history import DEFAULT_ROWS, History
from .scaling import Scaling
from .schedule import Schedule

logger = logging.getLogger(__name__)


class Outcome(Enum):
    """What became of a step."""

    CLOSED = auto()  #: on a device it may also be skipped there: the host is not told
    SKIPPED = auto()  #: the optimizer will skip it: norms were taken, and nothing else happened
    NO_GRADIENT = auto()  #: no parameter has a gradient, so nothing was done


@dataclass(frozen=True)
class StepInputs:
    """What a core is told about the step that it closes.

    Attributes:
        rule: the rule in force.
        preselected: bool [L] on the host: the rule's latest selection, if it makes them without looking at scores.
        active: which layers were to take gradients. The other layers keep their scores, and so do layers that took no
            gradient.
        scaling: how the gradients are scaled. With it, a gradient that is not finite skips the step.
        first_layer: the layers below it take no part in the selection.
    """

    rule: Rule
    preselected: Tensor | None
    active: Sequence[bool]
    scaling: Scaling | None = None
    first_layer: int = 0


class Core(Protocol):
    """Measures the gradients of a step and decides which layers are selected.

    Attributes:
        state: live tensors by name: ``scores``, ``status``, ``nonfinite``, ``total_norm``, ``group_sums``, ``step``,
            ``decided``, ``mask``, ``wanted``, ``threshold``, ``kept_share``, ``step_cost``, ``frequency`` and
            ``trained_frequency``.
        history: what was measured and chosen in every step.
        unmeasured: which active layers had no gradient in the last step, as far as the host can know. They keep their
            scores, and are to take gradients in the next step. The device says the same, later, in ``wanted``.
    """

    state: dict[str, Tensor]
    history: History
    unmeasured: list[bool]

    @property
    def decides_on_device(self) -> bool:
        """Whether the host would have to wait to know the selection."""
        ...

    @property
    def parameter_sums(self) -> Tensor:
        """float64 [P], on the device: the sum of squares of each parameter's gradient in the last step in which its
        layer took one, up to a factor for each layer (of the scale of the loss). Reading it is what it costs.
        """
        ...

    @property
    def taken(self) -> bool:
        """Whether a gradient was gone when the backward pass before the last step ended."""
        ...

    def step(self, inputs: StepInputs) -> Outcome:
        """Closes a step."""
        ...

    def written(self) -> bool:
        """Whether a gradient was replaced, or written to in place (clipped, say), since it was measured.

        Nothing waits for a device.
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


def check_mask(rule: Rule, mask: Any, length: int) -> Tensor:
    """Returns ``mask``; raises LayerSelectError unless it is bool [length]."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (length,):
        raise LayerSelectError(f"rule {rule.name!r} returned no bool mask of {length} layers: {mask!r}")
    return mask
