"""What the tests of all tasks share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module", autouse=True)
def _no_pages(request: pytest.FixtureRequest) -> Iterator[None]:
    """In this process no run draws its page, which takes as long as a tiny training: a word stands in its place. Where
    a test file reads pages, it says ``PAGES = True``.
    """
    if getattr(request.module, "PAGES", False):
        yield
        return

    def write(path: Path, report: Any) -> None:
        path.write_text("no page")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerselect.tasks.intent.task.write_intent_report", write)
        patch.setattr("layerselect.tasks.revise.task.write_revise_report", write)
        yield
