"""The page and the picture of a Layer Card."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np

from ..card import LayerCard
from ..card.recommend import recommendations, why_none
from .page import page_environment, svg


def write_card_report(path: Path, card: LayerCard) -> None:
    """Writes the page to ``path``. It needs nothing from a network or another file.

    Raises:
        LayerSelectError: jinja2 or matplotlib is not installed.
    """
    path.write_text(render(card), encoding="utf-8")


def write_card_png(path: Path, card: LayerCard) -> None:
    """Writes the figures as one picture.

    Raises:
        LayerSelectError: jinja2 or matplotlib is not installed.
    """
    page_environment()
    from .card_figures import write_png

    write_png(path, card)


def render(card: LayerCard) -> str:
    """The page as text; everything that comes from a model, a corpus or an option is escaped."""
    environment = page_environment()
    from .card_figures import cost_bars, coupling_matrix, feature_bars, quality_cost_front, strength_bars

    placements = [
        {"letter": letter, "what": what, "call": call, "placement": placement}
        for letter, (what, call, placement) in zip(string.ascii_uppercase, recommendations(card), strict=False)
    ]
    # Gains that are noise are not drawn either.
    marked = [(entry["letter"], entry["placement"]) for entry in placements]
    return environment.get_template("card.html.j2").render(
        card=card,
        partners=partners(card),
        placements=placements,
        no_placement=why_none(card),
        strength=svg(strength_bars(card)),
        features=svg(feature_bars(card)),
        costs=svg(cost_bars(card)),
        coupling=svg(coupling_matrix(card)) if card.coupling is not None else "",
        front="" if why_none(card) else svg(quality_cost_front(card, marked)),
        tables={"model": card.model, "data": card.data, "settings": card.settings, "versions": card.versions},
    )


def partners(card: LayerCard) -> list[dict[str, Any] | None]:
    """Says for each layer the one that it is coupled with most strongly, and how much; ``None`` where that is not
    known.
    """
    if card.coupling is None or len(card.layers) < 2:
        return [None] * len(card.layers)
    pairs = np.array(card.coupling)
    np.fill_diagonal(pairs, -2.0)
    return [{"layer": int(row.argmax()), "coupling": float(row.max())} for row in pairs]
