"""The compiled core with its device side. On the CPU it runs over the launchers' twins, on a GPU over the kernels."""

from __future__ import annotations

import pytest
import torch
from layerselect import _backend


@pytest.fixture
def native():
    module = _backend._native()
    if isinstance(module, str):
        pytest.skip(f"the compiled core layerselect._C is not built: {module}")
    return module


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest, native) -> torch.device:
    if request.param == "cuda" and not native.has_cuda_kernels():
        pytest.skip("this build has no CUDA kernels")
    return torch.device(request.param)
