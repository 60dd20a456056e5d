"""What a run needs of the machine, found out before anything is read or loaded."""

from __future__ import annotations

from ...models.holding import check_holding
from .devices import check_device
from .settings import TrainingSettings


def check_requirements(config: TrainingSettings) -> None:
    """Checks that this machine has what the settings ask for.

    Raises:
        LayerSelectError: a device or a package is missing.
    """
    check_device(config.device)
    check_holding(config.holding())
