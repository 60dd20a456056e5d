"""The interpreter, one per architecture; skips that say what is missing."""

from __future__ import annotations

import os

import pytest

from tests.ptx.emulator import Emulator
from tests.ptx.toolchain import Toolchain, find_interpreter, find_nvcc

ARCHITECTURES = ("sm_80", "sm_90")
#: LAYERSELECT_PTX_SLOW=1 runs more seeds, sizes and score vectors.
SLOW = os.environ.get("LAYERSELECT_PTX_SLOW") == "1"


@pytest.fixture(scope="session")
def run_ptx():
    found = find_interpreter()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="session")
def toolchain(run_ptx, pytestconfig: pytest.Config) -> Toolchain:
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("there is no nvcc (neither on the PATH nor in CUDA_HOME)")
    return Toolchain(nvcc, pytestconfig.cache.mkdir("ptx"))


@pytest.fixture(params=ARCHITECTURES)
def emulator(request: pytest.FixtureRequest, run_ptx, toolchain: Toolchain):
    made = Emulator(run_ptx, toolchain.launchers(), toolchain.ptx(request.param))
    yield made
    made.module.close()
