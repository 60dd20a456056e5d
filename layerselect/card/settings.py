"""How a card is measured."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import LayerSelectError
from ..utils.options import check_values, setting
from .adapt import RATES
from .losses import LIKELIHOODS

MEASURED = "how it is measured"


@dataclass(frozen=True)
class MeasureSettings:
    """How a card is measured; see :func:`layerselect.card.measure`."""

    targets: str | None = setting(
        None,
        "which linear maps of a layer: a regular expression for their names in it",
        group=MEASURED,
        metavar="RE",
    )
    ridge: float = setting(
        1e-3, "what inputs must carry to count, in activation energies", group=MEASURED, metavar="X", least=0
    )
    check: float = 1 / 3
    directions: int = setting(2, "random directions for the coupling", group=MEASURED, metavar="N", least=1)
    likelihood: str | None = None
    rank: int = setting(
        16,
        "rank of the adapter that costs are given for",
        group=MEASURED,
        metavar="N",
        least=1,
        flag="--lora-rank",
        known_as="--lora-r",
    )
    timed: bool = True
    adapt_steps: int = setting(0, "also adapt each layer alone for N steps", group=MEASURED, metavar="N", least=0)
    adapt_optimizer: str = setting(
        "adamw", "what steps when a layer is adapted alone", group=MEASURED, choices=tuple(RATES)
    )
    adapt_lr: float | None = None
    gain_steps: int = setting(
        0,
        "also predict what N first steps of AdamW and SGD gain in each layer",
        group=MEASURED,
        metavar="N",
        least=0,
    )
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            check_values(self, as_arguments=True)
        except LayerSelectError as error:
            raise LayerSelectError(f"measure: {error}") from error
        _check(0 <= self.check < 1, "check", self.check, "is not in [0, 1)")
        _check(self.adapt_lr is None or self.adapt_lr > 0, "adapt_lr", self.adapt_lr, "must be above 0")
        _check(
            self.likelihood is None or self.likelihood in LIKELIHOODS,
            "likelihood",
            self.likelihood,
            f"is not one of {', '.join(LIKELIHOODS)}",
        )

    def rate(self, optimizer: str) -> float:
        """The learning rate of an optimizer: ``adapt_lr`` is that of the one that adapts."""
        known = self.adapt_lr if optimizer == self.adapt_optimizer else None
        return RATES[optimizer] if known is None else known


def _check(condition: bool, name: str, value: object, reason: str) -> None:
    if not condition:
        raise LayerSelectError(f"measure: {name}={value!r} {reason}")
