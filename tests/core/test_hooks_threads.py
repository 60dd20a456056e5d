"""Backward passes that run at the same time, on one monitor: for ThreadSanitizer (`make sanitize`), and for the
sums.
"""

from __future__ import annotations

import threading

import torch
from torch import nn

from tests.helpers.monitored import assert_sums


def test_backward_passes_that_meet_in_the_same_groups(ops_of):
    """Each thread has parameters of its own, so torch does not make one wait for the other; every group has one of
    each.
    """
    threads, depth = 3, 12
    models = [nn.Sequential(*[nn.Linear(32, 32) for _ in range(depth)]) for _ in range(threads)]
    parameters = [p for layers in zip(*models, strict=True) for layer in layers for p in layer.parameters()]
    groups = [i for i in range(depth) for _ in range(2 * threads)]
    monitor = ops_of.GradientMonitor(parameters, groups, depth)
    ready = threading.Barrier(threads)

    def work(model: nn.Module, seed: int) -> None:
        x = torch.randn(64, 32, generator=torch.Generator().manual_seed(seed))
        for _ in range(40):
            loss = model(x).square().mean()
            ready.wait()
            loss.backward()

    workers = [threading.Thread(target=work, args=(model, seed)) for seed, model in enumerate(models)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert monitor.finish() == list(range(depth))
    assert_sums(monitor, parameters)
