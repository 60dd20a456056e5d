"""The arithmetic in bench/README.md is what its script computes, and the script's plan is the kernels'."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from layerselect.core.cuda import CudaCore
from torch import nn

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def paper() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_on_paper", BENCH / "cuda_on_paper.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cuda_on_paper"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["cuda_on_paper"]


def test_the_readme_holds_the_table(paper: ModuleType):
    assert paper.table() in (BENCH / "README.md").read_text()


def test_the_models_are_those_they_say(paper: ModuleType):
    assert sum(paper.lora(4, "").numels) == 41_943_040
    assert len(paper.lora(4, "").numels) == 448
    assert sum(paper.full(2, "").numels) == 8_030_261_248
    assert len(paper.full(2, "").numels) == 291


def test_items_are_the_plans(paper: ModuleType, native):
    """The number of partial sums, as the compiled plan cuts a smaller model."""
    import torch

    case = paper.Case("", [5000, 4096, 1, 70_000, 16_384, 16_385], 4)
    parameters = [nn.Parameter(torch.zeros(n)) for n in case.numels]
    core = CudaCore(parameters, [0] * 6, 1, capture="step")
    assert core.state["partials"].numel() == paper.items(case)


def test_launches_of_a_chunked_pass(paper: ModuleType):
    """apex's limits: 110 tensors or 320 chunks fill a launch."""
    assert paper.chunked(paper.Case("", [100] * 110, 4), 110, 320) == 1
    assert paper.chunked(paper.Case("", [100] * 111, 4), 110, 320) == 2
    assert paper.chunked(paper.Case("", [65_536 * 320], 4), 110, 320) == 1
    assert paper.chunked(paper.Case("", [65_536 * 320 + 1], 4), 110, 320) == 2
