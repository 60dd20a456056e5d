"""Tiny saved models and a corpus, made once for all tests of the tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny_intent


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_intent.save_llama(tmp_path_factory.mktemp("llama"))
