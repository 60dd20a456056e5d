"""Lightning's callback in two processes, under ``DistributedDataParallel`` and over shards."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="lightning is not installed")

from layerselect import LayerSelectError
from layerselect.integrations.lightning import SelectorCallback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from tests.distributed.forked import Ended, fork_ranks
from tests.distributed.training import ranks, whole
from tests.integrations.lightning_modules import loader, module, trainer

PROCESSES = 2
RULE: dict[str, Any] = {"rule": "variance", "probe_every": 3}
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "ddp": DDPStrategy,
    "ddp freeze": lambda: DDPStrategy(find_unused_parameters=True),
    "fsdp2": lambda: ModelParallelStrategy(PROCESSES, 1, save_distributed_checkpoint=False),
}


def fit(folder: Path, name: str, processes: int, resume: str | None = None) -> dict[str, Any]:
    """Six steps over the same batches, however many processes share them."""
    mode = "freeze" if name.endswith("freeze") else "auto" if processes > 1 else "gate"
    warmup = int(name == "fsdp2")  # without a state of every parameter torch does not load what it saved
    callback, learner = (
        SelectorCallback(**RULE, mode=mode, warmup=warmup),
        module(sharded=name == "fsdp2" and processes > 1),
    )
    callbacks = [callback]
    if resume is None and processes > 1:
        callbacks.append(ModelCheckpoint(folder, filename="{step}", every_n_train_steps=3, save_top_k=-1))
    made = trainer(
        folder,
        *callbacks,
        strategy=STRATEGIES[name]() if processes > 1 else "auto",
        devices=processes,
        enable_checkpointing=len(callbacks) > 1,
        gradient_clip_val=0.5 if name != "fsdp2" else None,
        accumulate_grad_batches=2,
        use_distributed_sampler=False,  # which shuffles
    )
    share = range(int(os.environ["RANK"]) if processes > 1 else 0, 24, processes)
    made.fit(learner, loader(12, 4 // processes, list(share)), ckpt_path=resume)
    rows = callback.selector.history.arrays()
    return {
        "names": callback.selector.layer_names,
        "mode": callback.selector.mode,
        "masks": torch.from_numpy(rows["mask"]),
        "scores": torch.from_numpy(rows["scores"]),
        "weights": torch.cat([whole(p).flatten() for p in learner.parameters()]),
    }


def refusal(folder: Path) -> str:
    strategy = DDPStrategy()  # which waits for the gradients of frozen layers
    try:
        made = trainer(folder, SelectorCallback(**RULE, mode="freeze"), strategy=strategy, devices=PROCESSES)
        made.fit(module(), loader())
    except LayerSelectError as error:
        return str(error)
    return ""


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {}
    for name in STRATEGIES:
        place = folder / name.replace(" ", "-")
        found[name] = fit(place, name, PROCESSES)
        found[f"{name}, resumed"] = fit(place, name, PROCESSES, resume=str(place / "step=3.ckpt"))
    found["refused"] = refusal(folder)
    torch.save(found, folder / f"{ranks()[0]}.pt")
    return 0


def trained(place: Path) -> list[Ended]:
    folder = place / "lightning"
    folder.mkdir()
    # As torchrun tells Lightning that it has started them.
    return fork_ranks(PROCESSES, lambda: main(folder), place / "lightning-rank", {"TORCHELASTIC_RUN_ID": "tests"})


LAUNCHES = [trained]


@pytest.fixture(scope="module")
def results(started: Callable) -> list[dict[str, Any]]:
    for status, said in started(PROCESSES).look_at_launch(trained):
        assert status == 0, said[-3000:]
    return [torch.load(started(PROCESSES).folder / "lightning" / f"{rank}.pt") for rank in range(PROCESSES)]


def check_same(one: dict[str, Any], other: dict[str, Any], exactly: bool = True) -> None:
    assert one["names"] == other["names"] and torch.equal(one["masks"], other["masks"])
    rtol, atol = (0.0, 0.0) if exactly else (1e-3, 1e-4)
    for name in ("scores", "weights"):
        torch.testing.assert_close(one[name], other[name], rtol=rtol, atol=atol, equal_nan=True)


@pytest.mark.parametrize("name", STRATEGIES)
def test_two_processes_select_what_one_would(results, tmp_path, name):
    first, second = (result[name] for result in results)
    assert first["mode"] == ("freeze" if name.endswith("freeze") else "gate")
    check_same(first, second)
    check_same(first, fit(tmp_path, name, 1), exactly=False)
    assert len(first["masks"]) == 6 and first["masks"].sum(1).min() < 6


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_resumed_run_ends_where_the_other_ended(results, name):
    for result in results:
        check_same(result[name], result[f"{name}, resumed"])


def test_freezing_needs_ddp_that_looks_for_unused_parameters(results):
    assert all("find_unused_parameters=True" in result["refused"] for result in results)
