#!/usr/bin/env bash
# Builds layerselect against a CUDA build of torch and checks that the module links, imports and falls back without a GPU.
# Downloads several GB, so it is no part of `make test`.
#
#   tests/cuda/link_check.sh [VENV]      VENV: a virtual environment with a CUDA torch; made (with torch 2.14.1) if absent
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${1:-$work/venv}
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet "torch==2.14.1" numpy ninja pybind11 "setuptools>=77" wheel rich
fi
# A copy, so that the checkout's own module stays what it is.
git ls-files -z csrc layerselect setup.py pyproject.toml README.md LICENSE | xargs -0 cp --parents -t "$work"
cd "$work"
LAYERSELECT_NATIVE=1 LAYERSELECT_CUDA=1 "$venv/bin/python" setup.py build_ext --inplace
"$venv/bin/python" - <<'PYTHON'
import torch

from layerselect import FastSelector, _C
from layerselect.core.cuda import CudaCore

assert torch.version.cuda is not None, "this torch has no CUDA"
assert _C.has_cuda_kernels(), "the module was built without kernels"
print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, GPU in sight: {torch.cuda.is_available()}")

# On the CPU everything works as in a build without CUDA.
parameters = [torch.nn.Parameter(torch.randn(70_000)), torch.nn.Parameter(torch.randn(50))]
core = CudaCore(parameters, [0, 1], 2)
(parameters[0].square().sum() + parameters[1].sum()).backward()
assert core.step({"kind": "top", "k": 1}, [True, True])
assert core.state["mask"].tolist() == [True, False]

model = torch.nn.Module()
model.blocks = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))
with FastSelector(model, mode="observe") as selector:
    assert selector.backend == "native"
    torch.nn.Sequential(*model.blocks)(torch.randn(2, 4)).sum().backward()
    selector.step()
    assert selector.scores.isfinite().all()

if not torch.cuda.is_available():
    try:
        torch.zeros(1, device="cuda")
    except RuntimeError as error:
        print(f"a CUDA tensor without a GPU: {str(error).splitlines()[0]}")
    else:
        raise SystemExit("a CUDA tensor was made without a GPU")
print("link check passed")
PYTHON
