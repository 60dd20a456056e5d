"""The placements that a card shows: a few bounds that people ask for."""

from __future__ import annotations

from ..errors import LayerSelectError
from .card import LayerCard
from .place import Placement

_BUDGET = 0.7


def why_none(card: LayerCard) -> str:
    """Why a card recommends no placement; empty where it does.

    Its figures are noise where on the batches that nothing was fitted to, no layer's interval is above zero.
    """
    lows = [layer.low for layer in card.layers if layer.low is not None]
    if card.held_out and lows and not any(low > 0 for low in lows):
        return (
            "no placement is recommended: on batches that nothing was fitted to, no layer did better than chance, so "
            "what was fitted is noise; measure more examples"
        )
    return ""


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
