"""The page of a pilot: its answer, the race drawn, and the table of the candidates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..utils.folders import new_file
from .numbers import share
from .page import page_environment, svg

_REASONS = {
    "running": "undecided at the end",
    "as good": "as good",
    "worse": "worse",
    "unlikely": "unlikely to be as good",
    "not needed": "not needed: a cheaper one is as good",
}
_HEADINGS = {"macro_f1": "macro-F1", "loss": "minus the held-out loss"}


def left_in_words(state: str, left: int | None) -> str:
    """What became of a candidate, and after which round."""
    words = _REASONS[state]
    return words if left is None else f"{words} (round {left})"


def write_pilot_report(
    path: Path, pilot: Mapping[str, Any], settings: Mapping[str, Any], *, by: str, seconds: float | None
) -> None:
    """Writes the page to ``path``, whole or not at all.

    Args:
        pilot: what ``pilot.json`` holds.
        settings: of the pilot and its trainings.
        by: what was compared.
        seconds: that the pilot took by the clock; ``None`` where it was interrupted.

    Raises:
        LayerSelectError: jinja2 or matplotlib is not installed.
    """
    text = render(pilot, settings, by=by, seconds=seconds)
    with new_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def render(pilot: Mapping[str, Any], settings: Mapping[str, Any], *, by: str, seconds: float | None) -> str:
    """The page.

    Raises:
        LayerSelectError: jinja2 or matplotlib is not installed.
    """
    template = page_environment().get_template("pilot.html.j2")
    from .pilot_figure import front_figure, race_figure

    rows = [
        {
            **each,
            "share": share(each["cost"]),
            "words": left_in_words(each["state"], each["left"]),
            "look": each["looks"][-1] if each["looks"] else None,
            "listed": ", ".join(map(str, each["layers"])) or "none",
        }
        for each in pilot["candidates"]
    ]
    why, heading = pilot["answer"]["why"], _HEADINGS[by]
    page: str = template.render(
        pilot=pilot,
        rows=rows,
        settings=settings,
        heading=heading,
        why=f"{why[0].upper()}{why[1:]}.",
        seconds=seconds,
        total=share(pilot["cost"]),
        race=svg(race_figure(pilot, heading)),
        front=svg(front_figure(pilot, heading)),
    )
    return page
