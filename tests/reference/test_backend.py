"""Which backend is chosen, what it says when it cannot be, and what else the build promises."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from layerselect import LayerSelectError, _backend, ops, reference

CSRC = Path(__file__).parents[2] / "csrc"


def test_the_compiled_core_is_built():
    if os.environ.get("LAYERSELECT_NATIVE") == "0":
        pytest.skip("LAYERSELECT_NATIVE=0: built without the compiled core on purpose")
    module = _backend._native()
    assert not isinstance(module, str), f"layerselect._C does not load: {module}"
    assert module.instruction_set() in ("avx2", "baseline")


def test_auto_prefers_the_compiled_core(native):
    assert _backend.resolve("auto", "cpu") == "native"
    assert _backend.load("auto", torch.device("cpu")) is native
    assert _backend.load("torch", "cpu") is reference
    assert _backend.resolve("torch", "cuda") == "torch"


def test_both_backends_offer_the_same_names(native):
    for name in reference.__all__:
        assert callable(getattr(native, name)), name


def test_an_unknown_backend_is_refused():
    with pytest.raises(LayerSelectError, match=r"backend='cuda' is unknown; use \"auto\", \"native\" or \"torch\""):
        _backend.resolve("cuda")


def test_a_device_without_kernels(native, caplog):
    with pytest.raises(LayerSelectError, match=r"no kernels for device 'meta'.*use backend=\"torch\""):
        _backend.load("native", "meta")
    _backend._log_fallback.cache_clear()
    with caplog.at_level(logging.WARNING, logger="layerselect"):
        assert _backend.load("auto", "meta") is reference
        assert _backend.load("auto", "meta") is reference
    assert len(caplog.records) == 1 and "'meta'" in caplog.text


@pytest.fixture
def without_native(monkeypatch):
    monkeypatch.setattr(
        _backend, "_native", lambda: "cannot be loaded (No module named 'layerselect._C'); install a C++ compiler"
    )
    _backend._log_fallback.cache_clear()
    yield
    _backend._log_fallback.cache_clear()


def test_without_the_compiled_core(without_native, caplog):
    with pytest.raises(LayerSelectError, match=r"No module named 'layerselect._C'.*C\+\+ compiler.*backend=\"torch\""):
        _backend.load("native")
    with caplog.at_level(logging.WARNING, logger="layerselect"):
        assert ops.segment_sqnorm([torch.ones(5)], [0], 1).tolist() == [5]
        assert ops.variance_split(torch.tensor([1.0, 2.0]))[0].tolist() == [True, True]
    assert len(caplog.records) == 1 and 'backend="torch"' in caplog.text


def test_the_package_runs_where_nothing_was_compiled(environment):
    program = (
        "import sys; sys.modules['layerselect._C'] = None\n"
        "import torch, layerselect\n"
        "model = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(3)])\n"
        "stack = torch.nn.Module(); stack.blocks = torch.nn.ModuleList(model)\n"
        "selector = layerselect.FastSelector(stack, mode='observe')\n"
        "model(torch.ones(2, 4)).sum().backward(); selector.step()\n"
        "print(selector.backend, len(selector.selected()) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["torch", "True"], done.stderr


KERNEL = """
#include "select.h"
__global__ void split(const float* sorted, const float* scores, const unsigned char* status, int m, double* costs,
                      int* ranks) {
  const int k = threadIdx.x + 1;
  if (k < m) costs[k] = layerselect::cut_cost(sorted, m, k);
  if (k <= m) ranks[k - 1] = layerselect::rank_of(scores, status, m, k - 1);
  const layerselect::CutRange cuts = layerselect::cut_window(m, 0.35, 0.65);
  if (k == 1) costs[0] = layerselect::is_least(costs[cuts.first], costs[cuts.last]);
}
"""


def test_a_cuda_compiler_takes_the_selection_mathematics(tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc on this machine")
    source = tmp_path / "split.cu"
    source.write_text(KERNEL)
    command = [nvcc, "-ptx", "-std=c++17", "-Werror", "all-warnings", f"-I{CSRC}", "-o", str(tmp_path / "split.ptx")]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ptx = (tmp_path / "split.ptx").read_text()
    assert "add.rn.f64" in ptx and "mul.rn.f64" in ptx
    assert "fma" not in ptx  # the host rounds products and sums apart; so must the device
