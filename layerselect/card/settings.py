"""How a card is measured."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import LayerSelectError
from .losses import LIKELIHOODS


@dataclass(frozen=True)
class MeasureSettings:
    """How a card is measured; see :func:`layerselect.card.measure`."""

    targets: str | None = None
    ridge: float = 1e-3
    check: float = 1 / 3
    probes: int = 2
    likelihood: str | None = None
    rank: int = 16
    timed: bool = True
    adapt_steps: int = 0
    adapt_lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.ridge >= 0, "ridge", self.ridge, "must not be negative")
        _check(0 <= self.check < 1, "check", self.check, "is not in [0, 1)")
        _check(self.probes >= 1, "probes", self.probes, "must be at least 1")
        _check(self.rank >= 1, "rank", self.rank, "must be at least 1")
        _check(self.adapt_steps >= 0, "adapt_steps", self.adapt_steps, "must not be negative")
        _check(self.adapt_lr > 0, "adapt_lr", self.adapt_lr, "must be above 0")
        _check(
            self.likelihood is None or self.likelihood in LIKELIHOODS,
            "likelihood",
            self.likelihood,
            f"is not one of {', '.join(LIKELIHOODS)}",
        )


def _check(condition: bool, name: str, value: object, reason: str) -> None:
    if not condition:
        raise LayerSelectError(f"measure: {name}={value!r} {reason}")
