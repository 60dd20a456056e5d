"""What the pages say of a run's selections: how often layers were selected, and how often they then trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .numbers import plural, share


@dataclass(frozen=True)
class SelectionShares:
    """Counts over the steps of a history.

    Attributes:
        steps: how many steps the history holds.
        selected: for each layer, in how many of them it was selected.
        trained: in how many it was selected and took gradients; without them nothing of it trains. ``None`` in
            histories of early releases.
    """

    steps: int
    selected: list[int]
    trained: list[int] | None

    @classmethod
    def of(cls, history: Mapping[str, np.ndarray]) -> SelectionShares:
        """Counts the rows of a history: ``mask`` bool [n, L], and ``trained`` bool [n, L] if it has that."""
        mask = history["mask"]
        trained = (mask & history["trained"]).sum(axis=0).tolist() if "trained" in history else None
        return cls(len(mask), mask.sum(axis=0).tolist(), trained)

    def sentence(self) -> str:
        """Both, as means over the layers."""
        if not self.steps or not self.selected:
            return ""
        selected = self._mean(self.selected)
        if self.trained is None:
            return f"On average a layer was selected in {share(selected)} of the steps."
        trained = self._mean(self.trained)
        text = f"On average a layer was selected in {share(selected)} and trained in {share(trained)} of the steps."
        if self.trained == self.selected:
            return text
        return text + (
            " Where it was selected and did not train (orange in the picture), it took no gradient in that step: mode "
            "freeze decides before the backward pass which layers compute theirs, and the selection of the step is "
            "made from it."
        )

    def _mean(self, counts: list[int]) -> float:
        return float(np.mean(counts)) / self.steps


def lacking(history: Mapping[str, np.ndarray]) -> str:
    """What a history does not show of its run, in a sentence; empty if it shows all."""
    steps = history["step"]
    if not len(steps) or int(steps[-1]) + 1 == len(steps):
        return ""
    return (
        f"The history holds {len(steps):,} of the run's {plural(int(steps[-1]) + 1, 'step')}, the first of them step "
        f"{int(steps[0]):,}."
    )
