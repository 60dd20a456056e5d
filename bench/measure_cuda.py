"""Measures the norm pass of bench/cuda_on_paper.py on a GPU, beside what else one might do.

    python bench/measure_cuda.py [--case lora-fp32 lora-bf16 full-bf16] [--repeats 50]

Prints the median and the quartiles of the device time between two events and of the time the host is busy. The device
is kept busy while the host queues the work, so that a slow host does not count as device time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from cuda_on_paper import LAYERS, Case, full, lora

CASES = {
    "lora-fp32": (lambda: lora(4, "LoRA r=16, fp32"), torch.float32),
    "lora-bf16": (lambda: lora(2, "LoRA r=16, bf16"), torch.bfloat16),
    "full-bf16": (lambda: full(2, "full, bf16"), torch.bfloat16),
}

#: Clock cycles, some 5 ms: longer than the host needs to queue any of these (but those that wait for the device).
_HEAD_START = 10_000_000


def measure(work: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """(device, host) microseconds of each repetition."""
    for _ in range(5):
        work()
    device, host = [], []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(_HEAD_START)
        start.record()
        before = time.perf_counter()
        work()
        host.append((time.perf_counter() - before) * 1e6)
        end.record()
        end.synchronize()
        device.append(start.elapsed_time(end) * 1e3)
    return device, host


def parameters_of(case: Case, dtype: torch.dtype) -> tuple[list[nn.Parameter], list[int]]:
    outer = len(case.numels) % LAYERS
    per_layer = len(case.numels) // LAYERS
    parameters = []
    for numel in case.numels:
        parameter = nn.Parameter(torch.empty(numel, dtype=dtype, device="cuda"))
        parameter.grad = torch.randn(numel, device="cuda").to(dtype) * 1e-3
        parameters.append(parameter)
    groups = [i // per_layer for i in range(len(parameters) - outer)] + [LAYERS] * outer
    return parameters, groups


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("measure_cuda: torch sees no CUDA device\n")
        return 2
    from layerselect.core.cuda import CudaCore

    print(torch.cuda.get_device_name(), torch.__version__)
    rule = {"kind": "variance", "window": (0.35, 0.65), "inclusive": True, "splits": 1}
    for name in options.case:
        make, dtype = CASES[name]
        case = make()
        parameters, groups = parameters_of(case, dtype)
        gradients = [p.grad for p in parameters]
        core = CudaCore(parameters, groups, LAYERS, capture="step")
        target = torch.empty(min(case.bytes, 2**30), dtype=torch.uint8, device="cuda")
        source = torch.empty_like(target)
        methods: dict[str, tuple[int, Callable[[], object]]] = {
            "copy (bandwidth)": (2 * target.numel(), lambda target=target, source=source: target.copy_(source)),
            "ours": (case.bytes, lambda core=core: core.step(rule, [True] * LAYERS)),
            "_foreach_norm": (case.bytes, lambda g=gradients: torch.stack(torch._foreach_norm(g))),
            ".norm().item()": (case.bytes, lambda g=gradients: [x.norm().item() for x in g]),
        }
        print(f"\n{case.name}: {len(parameters)} tensors, {case.bytes / 1e6:,.1f} MB")
        for method, (moved, work) in methods.items():
            device, host = measure(work, options.repeats)
            low, middle, high = statistics.quantiles(device, n=4)
            print(
                f"  {method:18} device {middle:10,.1f} us ({low:,.1f} to {high:,.1f}), {moved / middle / 1e6:6.2f} "
                f"TB/s, host {statistics.median(host):10,.1f} us"
            )
        del core, parameters, gradients, methods, target, source
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
