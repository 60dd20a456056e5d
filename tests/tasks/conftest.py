"""Tiny saved models and a corpus, made once for all tests of the tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny_intent


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_intent.save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_intent.save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def corpus_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_intent.corpus_file(tmp_path_factory.mktemp("corpus"))
