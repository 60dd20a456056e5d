"""A finished predictor and finished generators of tiny models, made once for all tests of the task."""

from __future__ import annotations

from pathlib import Path

import pytest
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.tasks.revise import ReviseConfig, ReviseResult, run_revise

from tests.helpers import tiny_intent


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_intent.corpus_file(tmp_path_factory.mktemp("revisions"))


@pytest.fixture(scope="session")
def options(corpus: Path, llama_folder: Path) -> dict:
    """Settings that predictor and generator share."""
    return {"data": str(corpus), "model": str(llama_folder), "device": "cpu", "lora_rank": 4, "lora_alpha": 8}


@pytest.fixture(scope="session")
def predictor(options: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predictor") / "run"
    config = IntentConfig(
        **options, out=str(out), max_steps=6, rule="topk:k=2", probe_every=2, batch_size=8, keep="last"
    )
    return run_intent(config).folder


@pytest.fixture(scope="session")
def generator_options(options: dict, predictor: Path) -> dict:
    return {
        **options,
        "predictor": str(predictor),
        "rule": "topk:k=2",
        "max_steps": 6,
        "probe_every": 2,
        "batch_size": 4,
        "eval_limit": 5,
        "max_length": 64,
        "keep": "last",
    }


@pytest.fixture(scope="session")
def done(generator_options: dict, tmp_path_factory: pytest.TempPathFactory) -> ReviseResult:
    out = tmp_path_factory.mktemp("generator") / "run"
    return run_revise(ReviseConfig(**generator_options, out=str(out), untrained=True, measure_memory=True))
