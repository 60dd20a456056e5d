"""Two cards side by side: would the second have put the adapters where the first did?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import LayerSelectError
from .card import LayerCard
from .intervals import spearman, spearman_interval


@dataclass(frozen=True)
class CardDifference:
    """How two cards of the same layers differ.

    Attributes:
        rank_correlation: of the layers by fresh resnorm; NaN where one card does not tell them apart.
        rank_interval: of 95 % for it, over layers (:func:`~layerselect.card.intervals.spearman_interval`): it says what
            the number of layers can tell, not how much other batches would change.
        top: for each k from 1 to L - 1, the share of the k best layers of one card that are among those of the other.
        coupling_difference: the mean absolute difference of the couplings of two different layers; ``None`` where a
            card has none.
        same_model, same_data: whether the fingerprints agree.
        rows: for each layer its name and its fresh resnorm in both cards.
    """

    rank_correlation: float
    rank_interval: tuple[float, float]
    top: dict[int, float]
    coupling_difference: float | None
    same_model: bool
    same_data: bool
    rows: list[tuple[str, float, float]]


def diff(one: LayerCard, other: LayerCard) -> CardDifference:
    """Compares two cards.

    Raises:
        LayerSelectError: they are of different layers.
    """
    if one.names != other.names:
        raise LayerSelectError(
            f"the cards are of different layers ({len(one.names)} from {one.names[0]!r} on, {len(other.names)} from "
            f"{other.names[0]!r} on): compare cards of one architecture"
        )
    count = len(one.names)
    orders = [np.argsort(-card.fresh, kind="stable") for card in (one, other)]
    top = {k: len(set(orders[0][:k]) & set(orders[1][:k])) / k for k in range(1, count)}
    difference = None
    if one.coupling is not None and other.coupling is not None and count > 1:
        apart = ~np.eye(count, dtype=bool)
        difference = float(np.abs(np.array(one.coupling) - np.array(other.coupling))[apart].mean())
    correlation = spearman(one.fresh, other.fresh)
    return CardDifference(
        rank_correlation=correlation,
        rank_interval=spearman_interval(correlation, count),
        top=top,
        coupling_difference=difference,
        same_model=one.model["fingerprint"] == other.model["fingerprint"],
        same_data=one.data["fingerprint"] == other.data["fingerprint"],
        rows=[(name, float(a), float(b)) for name, a, b in zip(one.names, one.fresh, other.fresh, strict=True)],
    )
