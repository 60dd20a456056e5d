"""The placements that a card shows: a few bounds that people ask for."""

from __future__ import annotations

from ..errors import LayerSelectError
from ..placement import Placement
from .card import DEPTH, LayerCard

_BUDGET = 0.7


def why_none(card: LayerCard) -> str:
    """Why a card recommends no placement; empty where it does."""
    noise = card.noise()
    return f"no placement is recommended: {noise}{DEPTH}" if noise else ""


def recommendations(card: LayerCard) -> list[tuple[str, str, Placement]]:
    """The recommended placements: for each, what it is, how to ask for it, and the placement. Bounds that no layer fits
    are left out. None where the figures are noise (:func:`why_none`).
    """
    if why_none(card):
        return []
    count = len(card.layers)
    asked: list[tuple[str, dict[str, object]]] = []
    for share, words in ((4, "a quarter of the layers"), (2, "half of the layers")):
        if count >= share:
            asked.append((f"{words}, most gain", {"k": count // share}))
    asked += [
        (f"a step of at most {_BUDGET:.0%} of the cost, most gain", {"budget": _BUDGET}),
        ("gain and cost balanced", {"objective": "balanced"}),
        ("90% of the gain, least cost", {"objective": "cost"}),
    ]
    found, placer = [], card.placer()
    for words, bounds in asked:
        try:
            placement = placer.place(**bounds)  # type: ignore[arg-type]
        except LayerSelectError:
            continue
        call = ", ".join(f"{name}={value!r}" for name, value in bounds.items())
        found.append((words, f"card.place({call})", placement))
    return found
