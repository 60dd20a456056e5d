"""How a race of placements is divided into rounds, and how much of the allowed error each look at it may spend."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import LayerSelectError

#: How often a whole race may claim what is not so.
ERROR = 0.05


@dataclass(frozen=True)
class Rounds:
    """How a race is divided.

    Each of the first ``folds`` rounds holds out another part of the documents, and trains with ``seeds`` seeds. Each of
    the ``more`` rounds after them adds a seed to all folds.

    Raises:
        LayerSelectError: fewer than two folds or seeds, or less than no more rounds.
    """

    folds: int = 5
    seeds: int = 2
    more: int = 0

    def __post_init__(self) -> None:
        for name, least in (("folds", 2), ("seeds", 2), ("more", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise LayerSelectError(f"{name}={value!r} is not a whole number of at least {least}")

    def __len__(self) -> int:
        return self.folds + self.more

    @property
    def trials(self) -> int:
        """Trainings of a candidate that stays to the end."""
        return self.folds * (self.seeds + self.more)

    def parts(self, number: int) -> list[tuple[int, int]]:
        """Seed and fold (both from 0) of each training in a round (from 0)."""
        if number < self.folds:
            return [(seed, number) for seed in range(self.seeds)]
        return [(self.seeds + number - self.folds, fold) for fold in range(self.folds)]

    def share(self, number: int) -> float:
        """The share of all trainings that is there after a round."""
        if number < self.folds:
            return (number + 1) * self.seeds / self.trials
        return self.folds * (self.seeds + number - self.folds + 1) / self.trials

    def error(self, number: int) -> float:
        """What a look after a round may spend of the allowed error."""
        before = self.share(number - 1) if number else 0.0
        return ERROR * (self.share(number) ** 2 - before**2)
