"""Which steps do what: warm-up, selections, probes."""

from __future__ import annotations

from dataclasses import dataclass

from ..utils.arguments import check_whole


@dataclass(frozen=True)
class Schedule:
    """Steps are counted from 0.

    Attributes:
        warmup: steps 0 .. warmup - 1 train all layers; nothing is selected in them.
        interval: from step ``warmup`` on, every so many steps there is a new selection.
        probe_every: in mode ``freeze``, every so many steps all layers take gradients for one step; 0 never.

    Raises:
        LayerSelectError: a number out of range.
    """

    warmup: int = 0
    interval: int = 1
    probe_every: int = 20

    def __post_init__(self) -> None:
        for name, least in (("warmup", 0), ("interval", 1), ("probe_every", 0)):
            check_whole(name, getattr(self, name), least)

    def warms_up_in(self, step: int) -> bool:
        return step < self.warmup

    def selects_in(self, step: int) -> bool:
        return step >= self.warmup and (step - self.warmup) % self.interval == 0

    def measures_all_in(self, step: int) -> bool:
        """Whether all layers take gradients in this step. The first selection is made from fresh scores."""
        return step <= self.warmup or bool(self.probe_every and (step - self.warmup) % self.probe_every == 0)
