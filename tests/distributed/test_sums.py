"""What one process sees and the other does not: gradients that are not finite, or not there; states that are saved."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from layerselect import FastSelector, LayerSelectError
from layerselect.checkpoint import load_selector, save_selector
from layerselect.core import step as core_module
from layerselect.distributed.sharding import held_here
from torch import Tensor, nn

from tests.distributed.training import loss_of, whole, wrap
from tests.helpers.models import plain
from tests.helpers.selected import same_state

PROCESSES = 2
CORES = (False, True)  # whether it is that of a device, on the launchers' twins


def sharded(on_device: bool, rule: str = "topk:k=3") -> tuple[nn.Module, FastSelector]:
    model = wrap("fsdp2", plain())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core_module, "_has_kernels", lambda settings: on_device)
        return model, FastSelector(model, rule, mode="observe")


def snapshot(selector: FastSelector) -> dict[str, Tensor]:
    names = ("scores", "mask", "nonfinite", "frequency", "total_norm")
    return {name: getattr(selector, name).clone() for name in names}


@contextlib.contextmanager
def poisoned(model: nn.Module, on: bool) -> Iterator[None]:
    """Makes a gradient not finite in the shard of this process alone."""

    def poison(parameter: Tensor) -> None:
        held_here(parameter.grad)[0, 0] = math.inf

    handle = model.blocks[2][1].weight.register_post_accumulate_grad_hook(poison) if on else None
    yield
    if handle is not None:
        handle.remove()


def not_finite(folder: Path) -> list[dict[str, Tensor]]:
    """In one process alone, before the average (DDP) or after it (the shard of one process)."""
    seen = []
    for on_device in CORES:
        model, selector = sharded(on_device)
        for step in range(3):
            with poisoned(model, step == 1 and dist.get_rank() == 1):
                loss_of(model, step).backward()
            selector.step()
            model.zero_grad()
            seen.append(snapshot(selector))
    model = wrap("ddp", plain())
    selector = FastSelector(model, "topk:k=3", mode="observe")
    for step in range(3):
        weight = model.module.blocks[2][1].weight
        poison = dist.get_rank() == 1 and step == 1
        handle = weight.register_hook(lambda g: g * math.nan) if poison else None
        loss_of(model, step).backward()
        if handle is not None:
            handle.remove()
        selector.step()
        model.zero_grad()
        seen.append(snapshot(selector))
    return seen


def missing(folder: Path) -> list[dict[str, Tensor]]:
    """Returns, for each core, what was measured and the squares of the shard of this process in the same step."""
    seen = []
    for on_device in CORES:
        model, selector = sharded(on_device)
        rank = dist.get_rank()
        loss_of(model, 0).backward()
        # The first process lacks block 3, the second half of block 4, and nobody has block 5.
        lacking = list(model.blocks[3 + rank].parameters())[: 6 if rank == 0 else 2]
        for parameter in [*lacking, *model.blocks[5].parameters()]:
            parameter.grad = None
        own = torch.tensor([shard_squares(block) for block in model.blocks], dtype=torch.float64)
        selector.step()
        seen.append({**snapshot(selector), "own": own})
        # A process without any gradient goes along; its share counts 0.
        if rank == 0:
            model.zero_grad()
        own = torch.tensor([shard_squares(block) for block in model.blocks], dtype=torch.float64)
        selector.step()
        seen.append({**snapshot(selector), "own": own})
        model.zero_grad()
        with pytest.raises(LayerSelectError, match="no trainable parameter has a gradient"):
            selector.step()
        assert selector.steps == 2
    return seen


def shard_squares(module: nn.Module) -> float:
    gradients = [held_here(p.grad).double() for p in module.parameters() if p.grad is not None]
    return math.fsum(float((g**2).sum()) for g in gradients)


def clipped(folder: Path) -> list[float]:
    """Returns the norms before clipping."""
    norms = []
    for engine, mode in (("ddp", "gate"), ("fsdp2", "gate"), ("fsdp2", "freeze")):
        for on_device in CORES:
            model, twin = wrap(engine, plain()), wrap(engine, plain())
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(core_module, "_has_kernels", lambda settings: on_device)  # noqa: B023
                selector = FastSelector(model, "fixed:layers=[1,4]", mode=mode)
            loss_of(model, 0).backward()
            loss_of(twin, 0).backward()
            selector.step()
            norm = selector.clip_grad_norm_(0.02)
            left = [p for p, q in zip(twin.parameters(), model.parameters(), strict=True) if q.grad is not None]
            expected = whole(nn.utils.clip_grad_norm_(left, 0.02))
            torch.testing.assert_close(norm, expected, rtol=1e-6, atol=0, check_dtype=False)
            for a, b in zip(twin.parameters(), model.parameters(), strict=True):
                if b.grad is not None:
                    torch.testing.assert_close(held_here(b.grad), held_here(a.grad), rtol=1e-5, atol=1e-9)
            norms.append(float(norm))
    return norms


def scaled(folder: Path) -> list[dict[str, Tensor]]:
    """A gradient that overflows in one process alone makes all of them skip the step."""
    seen = []
    for on_device in CORES:
        model, selector = sharded(on_device)
        for step in range(3):
            with poisoned(model, step == 1 and dist.get_rank() == 1):
                (loss_of(model, step) * 1024).backward()
            selector.step(grad_scale=1024)
            model.zero_grad()
            seen.append(snapshot(selector))
    return seen


SETTINGS = {"rule": "random:k=2", "seed": 5, "warmup": 1, "interval": 2}


def sgd_steps(model: nn.Module, selector: FastSelector, steps: range) -> Tensor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    selector.attach(optimizer)
    for step in steps:
        loss_of(model, step).backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
    return torch.as_tensor(selector.history.arrays()["mask"])


def save_together(folder: Path) -> dict[str, Any]:
    model = wrap("ddp", plain())
    selector = FastSelector(model, **SETTINGS)
    sgd_steps(model, selector, range(7))
    state = selector.state_dict()
    if dist.get_rank() == 0:
        save_selector(selector, folder)
        torch.save([whole(p) for p in model.parameters()], folder / "weights.pt")
    dist.barrier()
    masks = [sgd_steps(model, selector, range(7, 14))]
    # The same goes on with shards.
    model = plain()
    set_weights(model, folder)
    model = wrap("fsdp2", model)
    selector = FastSelector(model, **SETTINGS)
    load_selector(selector, folder)
    masks.append(sgd_steps(model, selector, range(7, 14)))
    return {"masks": masks, "state": state, "weights": [whole(p) for p in model.parameters()]}


def set_weights(model: nn.Module, folder: Path) -> None:
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), torch.load(folder / "weights.pt"), strict=True):
            parameter.copy_(value)


CHECKS = [not_finite, missing, clipped, scaled, save_together]


def test_what_is_not_finite_in_one_process_is_left_out_in_all(returned):
    first, second = returned(not_finite)
    assert all(map(same_state, first, second))
    for run in (first[:3], first[3:6], first[6:]):
        assert run[1]["mask"].tolist()[2] is False
        assert run[1]["nonfinite"].tolist() == [0, 0, 1, 0, 0, 0]
        assert torch.equal(run[1]["scores"][2], run[0]["scores"][2])
        assert not torch.isfinite(run[1]["total_norm"]) and torch.isfinite(run[2]["total_norm"])
        assert run[2]["scores"].isfinite().all()


def test_gradients_that_one_process_lacks_count_nothing(returned):
    first, second = returned(missing)
    for a, b in zip(first, second, strict=True):
        assert same_state({**a, "own": None}, {**b, "own": None})
        expected = (a["own"] + b["own"]).sqrt()
        torch.testing.assert_close(a["scores"][:5].double(), expected[:5], rtol=1e-6, atol=0)
        # What nobody has a gradient of is not measured. It never was, so it cannot be chosen.
        assert math.isnan(a["scores"][5]) and a["scores"][4] > 0
        assert not a["mask"][5] and a["nonfinite"].tolist() == [0] * 6


def test_gradients_are_clipped_by_the_norm_of_all(returned):
    first, second = returned(clipped)
    assert first == second
    assert first[:2] == pytest.approx(first[2:4], rel=1e-6) and first[4] < first[2]


def test_a_step_that_overflows_in_one_process_is_skipped_in_all(returned):
    first, second = returned(scaled)
    assert all(map(same_state, first, second))
    for run in (first[:3], first[3:]):
        assert not torch.isfinite(run[1]["total_norm"])
        assert same_state({**run[0], "total_norm": None}, {**run[1], "total_norm": None})
        assert int(run[2]["frequency"].sum()) == 6
    model = plain()
    with FastSelector(model, "topk:k=3", mode="observe") as selector:
        loss_of(model, 0).backward()
        selector.step()
        torch.testing.assert_close(first[0]["scores"], selector.scores, rtol=1e-5, atol=0)


def test_a_run_goes_on_with_another_number_of_processes(returned, shared_folder):
    together = returned(save_together)
    assert same_state(together[0]["state"], together[1]["state"])
    model = plain()
    set_weights(model, shared_folder)
    with FastSelector(model, mode="gate", **SETTINGS) as selector:
        load_selector(selector, shared_folder)
        masks = sgd_steps(model, selector, range(7, 14))
    assert len(masks) == 14
    for rank in together:
        assert all(torch.equal(each, masks) for each in rank["masks"])
        for a, b in zip(rank["weights"], model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
