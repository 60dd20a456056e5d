"""A finished tiny run, made once through the command line itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from layerselect.cli import main

from tests.helpers.pages import no_card_pages, no_pages  # noqa: F401


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path, corpus_path: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    status = main(
        [
            "intent",
            "--data",
            str(corpus_path),
            "--model",
            str(bert_folder),
            "--out",
            str(out),
            "--max-steps",
            "3",
            "--batch-size",
            "8",
            "--device",
            "cpu",
            "--threads",
            "1",
        ]
    )
    assert status == 0
    return out
