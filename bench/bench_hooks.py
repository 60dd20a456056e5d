"""What measuring gradients adds to a backward pass: compiled hooks beside Python hooks with .item().

python -m pytest bench/bench_hooks.py --benchmark-only --benchmark-enable -s

The backward pass is the smallest there is: gradients handed to the parameters and copied into .grad. So the difference
between two passes is what the hooks cost, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from layerselect import _backend, reference
from torch import nn

from layouts import LAYOUTS, Layout, Turns

ROUNDS = 31


def backward_pass(layout: Layout, attach: Callable[[list[nn.Parameter]], Callable[[], object]]) -> Callable[[], None]:
    """A backward pass over parameters of its own, closed by what ``attach`` returns."""
    parameters = [nn.Parameter(torch.empty_like(t)) for t in layout.tensors]
    finish = attach(parameters)

    def run() -> None:
        for parameter in parameters:
            parameter.grad = None
        torch.autograd.backward(parameters, layout.tensors)
        finish()

    return run


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_hooks(benchmark, name, dtype, threads):
    layout = LAYOUTS[name](dtype)

    def nothing(_: list[nn.Parameter]) -> Callable[[], object]:
        return lambda: None

    def monitor(module) -> Callable:
        return lambda parameters: module.GradientMonitor(parameters, layout.layer, layout.num_layers).finish

    def python_hooks(parameters: list[nn.Parameter]) -> Callable[[], object]:
        norms = [0.0] * len(parameters)

        def hook_for(i: int) -> Callable[[nn.Parameter], None]:
            def hook(parameter: nn.Parameter) -> None:
                norms[i] = parameter.grad.norm().item()

            return hook

        for i, parameter in enumerate(parameters):
            parameter.register_post_accumulate_grad_hook(hook_for(i))
        return lambda: sum(norms)

    turns = Turns(
        {
            "no hooks": backward_pass(layout, nothing),
            "compiled monitor": backward_pass(layout, monitor(_backend.load("native"))),
            "Python hooks, .item()": backward_pass(layout, python_hooks),
            "Python monitor": backward_pass(layout, monitor(reference)),
        }
    )
    turns.measure(benchmark, ROUNDS, threads)

    print(f"\n{name} {dtype}, {len(layout.tensors)} parameters, {threads} thread(s)")
    print(f"{'':24s}      ms   added ms   of Python hooks with .item()")
    python = turns.added("Python hooks, .item()", "no hooks")
    for contender in turns.seconds:
        added = turns.added(contender, "no hooks")
        print(f"{contender:24s}{turns.median(contender) * 1e3:8.2f}{added * 1e3:11.2f}{added / python:10.2f}")
        benchmark.extra_info[contender] = {"ms": turns.median(contender) * 1e3, "added_ms": added * 1e3}
    print(f"compiled monitor: {turns.added('compiled monitor', 'no hooks') / python:.2f} (target: below 0.33)")
