"""Runs without their pages: drawing one takes as long as a tiny training. A word stands in its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_WRITERS = {
    "layerselect.tasks.intent.task.write_intent_report": "write_intent_report",
    "layerselect.tasks.revise.task.write_revise_report": "write_revise_report",
    "layerselect.tasks.pilot.run.write_pilot_report": "write_pilot_report",
}


#: The same of a card. They are imported where they are called.
_CARD_WRITERS = ("layerselect.report.card.write_card_png", "layerselect.report.card.write_card_report")


def _no_page(path: Path, *facts: Any, **more: Any) -> None:
    path.write_text("no page")


@contextmanager
def without_pages() -> Iterator[None]:
    """In the block, no run of this process draws its page."""
    with pytest.MonkeyPatch.context() as patch:
        for place in _WRITERS:
            patch.setattr(place, _no_page)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_pages() -> Iterator[None]:
    """For a conftest or a test file whose runs need no pages."""
    with without_pages():
        yield


@pytest.fixture
def pages(no_pages: None) -> Iterator[None]:
    """For a single test among them that reads one."""
    from layerselect import report

    with pytest.MonkeyPatch.context() as patch:
        for place, name in _WRITERS.items():
            patch.setattr(place, getattr(report, name))
        yield


@pytest.fixture
def no_card_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that makes cards and looks at none of their pages and pictures."""
    for place in _CARD_WRITERS:
        monkeypatch.setattr(place, _no_page)
