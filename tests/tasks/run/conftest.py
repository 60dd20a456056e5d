"""What the tests of runs that keep hidden states share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import tiny_intent


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fewer documents than elsewhere."""
    return tiny_intent.corpus_file(tmp_path_factory.mktemp("corpus"), documents=6)


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fewer still."""
    return tiny_intent.corpus_file(tmp_path_factory.mktemp("few"), documents=5)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of two layers, for what is the same in each."""
    made = {"bert": tiny_intent.save_bert, "llama": tiny_intent.save_llama}
    return {name: save(tmp_path_factory.mktemp(name), layers=2) for name, save in made.items()}
