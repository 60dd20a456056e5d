"""A rule that says what it was told to say."""

from __future__ import annotations

from typing import Any

import torch
from layerselect import Rule, Selection


class Scripted(Rule):
    """Says what it was told to say."""

    name = "scripted"
    uses_scores = False

    def __init__(self, masks: list[list[bool]]) -> None:
        self._masks = iter([*masks, masks[-1]])  # mode "freeze" asks for one more

    def select(self, scores: torch.Tensor, status: torch.Tensor) -> Selection:
        return Selection(torch.tensor(next(self._masks)), torch.tensor(float("nan")))

    def config(self) -> dict[str, Any]:
        return {}
