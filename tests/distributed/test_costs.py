"""Measured costs of two processes: the mean of both, in both, at the same step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from layerselect import CostAware, FastSelector
from layerselect.costs.measured import CostMeter

from tests.distributed.training import loss_of, wrap
from tests.helpers.models import plain

PROCESSES = 2


def measured(folder: Path) -> list[dict[str, Any]]:
    """Process 0 measures 1 to 13 seconds; process 1 twice as much, or, the second time, nothing it can use."""
    seen = []
    for engine in ("ddp", "fsdp2"):
        for factor in (2.0, math.nan):
            model = wrap(engine, plain())
            rows = [(factor if dist.get_rank() else 1.0) * (i + 1) for i in range(13)]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(CostMeter, "_row", lambda self, run, rows=rows: rows)
                with FastSelector(model, CostAware(0.9, "all", "measured"), mode="observe") as selector:
                    came, masks = [], []
                    for step in range(9):
                        loss_of(model, step).backward()
                        selector.step()
                        model.zero_grad()
                        came.append("measured" in selector.rule.state_dict())
                        masks.append(selector.mask.clone())
                    seen.append({"came": came, "masks": torch.stack(masks), **selector.rule.layer_costs.to_dict()})
    return seen


CHECKS = [measured]


def test_all_ranks_get_the_mean_in_the_same_step(returned):
    first, second = returned(measured)
    for run, other, factor in zip(first, second, [1.5, 1.0] * 2, strict=True):
        assert run["came"] == other["came"] == [False] * 6 + [True] * 3
        assert torch.equal(run.pop("masks"), other.pop("masks"))
        assert run == other
        assert run["forward"] == pytest.approx([factor * (i + 1) for i in range(6)])
        backward = [a + b for a, b in zip(run["input_gradient"], run["weight_gradient"], strict=True)]
        assert backward == pytest.approx([factor * (i + 7) for i in range(6)])
        assert run["rest"] == pytest.approx(factor * 13)
