"""What a training takes from a finished pilot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import LayerSelectError
from ...placement import Placement
from ...placement.candidates import cut_below
from ...utils.saved_schema import Fields, Flag, Mismatch, check
from .run import KIND


def settings_after(folder: str | Path) -> dict[str, Any]:
    """The settings of a training that takes what a finished pilot has chosen: the placement and, where the layers below
    it can be cached, the cache.

    Raises:
        LayerSelectError: no finished pilot is there.
    """
    place = Path(folder)
    chosen = Placement.load(place)
    values, where = KIND.read(place)
    try:
        own = KIND.unstamped(values, where)
        check(Fields({"caches": Flag()}), own)
    except Mismatch as error:
        raise LayerSelectError(f"{where!r} is damaged ({error}): run the pilot again") from error
    cut = cut_below(chosen.layers, len(chosen.names)) if own["caches"] else 0
    cached = {"state_cache": "cached", "cut": str(cut)} if cut else {}
    return {"placement": str(folder), **cached}
