"""Gradients are measured when the engine has made them final and before anybody clips them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from layerselect import FastSelector
from layerselect.core import step as core_module
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.distributed.test_engines import check_run, check_same_in_all_processes
from tests.distributed.training import loss_of, train
from tests.helpers.models import PlainStack, plain

PROCESSES = 2
CLIPPED: dict[str, Any] = {"rule": "variance", "optimizer": "sgd", "steps": 6, "clip": 0.05}
AS_BUCKETS = {"gradient_as_bucket_view": True}
UNUSED = {"find_unused_parameters": True}


class Checkpointed(PlainStack):
    """Whose blocks run in backward passes of their own, inside the pass."""

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        if not hidden.requires_grad:
            hidden = hidden.detach().requires_grad_()
        for block in self.blocks:
            hidden = hidden + checkpoint(block, hidden, use_reentrant=True)
        return self.head(hidden)


def checkpointed(outer_trains: bool) -> nn.Module:
    torch.manual_seed(0)
    model = Checkpointed()
    for module in (model.embed, model.head):
        module.requires_grad_(outer_trains)
    return model


def checkpointed_whole() -> nn.Module:
    return checkpointed(True)


def checkpointed_blocks() -> nn.Module:
    return checkpointed(False)


class LeavingOut(PlainStack):
    """Leaves a block out: each process another one in every second step, and all of them the same one in the others."""

    passes = 0

    def forward(self, tokens: Tensor) -> Tensor:
        rank = dist.get_rank() if dist.is_initialized() else 0
        left_out = 4 if self.passes % 2 else 1 + rank
        self.passes += 1
        hidden = self.embed(tokens)
        for index, block in enumerate(self.blocks):
            if index != left_out:
                hidden = hidden + block(hidden)
        return self.head(hidden)


def leaving_out() -> nn.Module:
    torch.manual_seed(0)
    return LeavingOut()


#: Engine, and what differs from CLIPPED.
RUNS: list[tuple[str, dict[str, Any]]] = [
    ("ddp", {}),
    ("ddp", {"wrapping": AS_BUCKETS, "set_to_none": False}),
    ("ddp", {"wrapping": {**UNUSED, **AS_BUCKETS}, "mode": "freeze", "rule": "topk:k=2", "probe_every": 3}),
    ("ddp", {"wrapping": {"static_graph": True}}),
    ("ddp", {"wrapping": {"static_graph": True}, "build": checkpointed_whole}),
    ("ddp", {"wrapping": {"static_graph": True}, "build": checkpointed_blocks}),
    ("ddp", {"micro_batches": 3}),
    ("fsdp2", {}),
    ("fsdp2", {"mode": "freeze", "rule": "topk:k=2", "probe_every": 3}),
    ("fsdp2", {"build": checkpointed_whole}),
    ("fsdp2", {"micro_batches": 3}),
    ("fsdp2-whole", {"set_to_none": False}),
]
ON_DEVICE = [0, 5, 6, 7, 10]


def clipped(folder: Path) -> list[dict[str, Any]]:
    return [train(engine, **{**CLIPPED, **changes}) for engine, changes in RUNS]


def clipped_on_the_device_core(folder: Path) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core_module, "_has_kernels", lambda settings: True)
        return [train(RUNS[i][0], **{**CLIPPED, **RUNS[i][1]}) for i in ON_DEVICE]


def left_out(folder: Path) -> list[dict[str, Any]]:
    """A block that one process leaves out has the gradient of the other; one that all leave out has none."""
    runs = []
    for set_to_none in (True, False):
        for wrapping in (UNUSED, {**UNUSED, **AS_BUCKETS}):
            options = {**CLIPPED, "build": leaving_out, "wrapping": wrapping, "set_to_none": set_to_none}
            runs.append(train("ddp", mode="gate", **options))
    return runs


def averaged_by_hand(folder: Path) -> dict[str, list[Tensor]]:
    """No engine is at work: gradients are final when they have been averaged, after the backward pass."""
    model = plain()
    selector = FastSelector(model, "variance", mode="gate")
    rows: dict[str, list[Tensor]] = {"scores": [], "masks": []}
    for step in range(3):
        loss_of(model, step).backward()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
        selector.step()
        model.zero_grad()
        rows["scores"].append(selector.scores.clone())
        rows["masks"].append(selector.mask.clone())
    return rows


CHECKS = [clipped, clipped_on_the_device_core, left_out, averaged_by_hand]


def alone(engine: str, **run: Any) -> dict[str, Any]:
    run.pop("wrapping", None)
    return train("none", **{"mode": "gate", "capture": "backward", **run})


def test_clipped_runs_are_those_of_one_process(returned):
    for (engine, changes), *together in zip(RUNS, *returned(clipped), strict=True):
        assert together[0]["capture"] == "step"
        check_same_in_all_processes(together)
        check_run(together[0], alone(engine, **{**CLIPPED, **changes}))


def test_clipped_runs_on_the_device_core(returned):
    for index, *together in zip(ON_DEVICE, *returned(clipped_on_the_device_core), strict=True):
        assert together[0]["on_device"]
        check_same_in_all_processes(together)
        engine, changes = RUNS[index]
        check_run(together[0], alone(engine, **{**CLIPPED, **changes}))


def test_a_layer_that_a_process_leaves_out(returned):
    for runs in zip(*returned(left_out), strict=True):
        check_same_in_all_processes(list(runs))
        scores = runs[0]["scores"]
        # Left out by all in steps 1, 3 and 5: block 4 keeps its score. Blocks 1 and 2 are each measured in all steps.
        assert torch.equal(scores[0::2, 4], scores[1::2, 4])
        assert (scores[:, [0, 1, 2, 3, 5]].diff(dim=0) != 0).all()
        assert (scores[0::2, 4].diff() != 0).all()


def test_gradients_averaged_by_hand(returned):
    first, second = returned(averaged_by_hand)
    model = plain()
    with FastSelector(model, "variance", mode="gate") as selector:
        for step in range(3):
            loss_of(model, step).backward()
            selector.step()
            model.zero_grad()
            for rank in (first, second):
                torch.testing.assert_close(rank["scores"][step], selector.scores, rtol=1e-5, atol=0)
                assert torch.equal(rank["masks"][step], selector.mask)
