"""Processes that choose different layers are told so, all of them, and none waits for one that is not there."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from layerselect import FastSelector, LayerSelectError
from layerselect.distributed import agreement as agreement_module
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.training import loss_of, wrap
from tests.helpers.models import plain

PROCESSES = 2


def run(
    model: nn.Module,
    rule: str = "topk:k=2",
    steps: int = 20,
    skips: tuple[int, ...] = (),
    local: bool = False,
    close: bool = True,
    pace: _Pace | None = None,
    **settings: Any,
) -> tuple[int, str]:
    """In which step it ended, and with which message."""
    selector = FastSelector(model, rule, mode="gate", **settings)
    optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    message, step = "", 0
    try:
        for step in range(1, steps + 1):
            if pace:
                pace.wait(step)
            if local and isinstance(model, DistributedDataParallel):
                with model.no_sync():
                    loss_of(model, step).backward()
            else:
                loss_of(model, step).backward()
            if step in skips and dist.get_rank() == 1:
                optimizer.zero_grad()
                continue
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
    except LayerSelectError as error:
        message = str(error)
    if pace:
        pace.end()
    if close:
        selector.close()
    dist.barrier()
    return step, message


class _Pace:
    """Keeps processes within five steps of each other that nothing else does: no collective waits for the slower one,
    and on a busy machine the faster one may have ended before the other has begun.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._mine, self._other = (folder / f"{name}-{rank}" for rank in (dist.get_rank(), 1 - dist.get_rank()))

    def wait(self, step: int) -> None:
        self._mine.with_suffix(f".{step}").touch()
        awaited = self._other.with_suffix(f".{step - 5}"), self._other.with_suffix(".ended")
        until = time.monotonic() + 60
        while step > 5 and not any(file.exists() for file in awaited) and time.monotonic() < until:
            time.sleep(0.001)

    def end(self) -> None:
        self._mine.with_suffix(".ended").touch()


def unsynchronised(folder: Path) -> list[tuple[int, str]]:
    return [
        run(wrap("ddp", plain()), local=True, steps=40, pace=_Pace(folder, "local")),
        run(plain(), steps=40, pace=_Pace(folder, "plain")),
    ]


def seeds_that_differ(folder: Path) -> list[tuple[int, str]]:
    return [run(wrap(engine, plain()), "random:k=2", seed=dist.get_rank()) for engine in ("ddp", "fsdp2")]


def stages(folder: Path) -> list[tuple[int, str]]:
    """Each process has half of the layers; the second also trains others, then with other adapters."""

    def half(model: nn.Module) -> nn.Module:
        first = 3 * dist.get_rank()
        return nn.ModuleDict({str(i): model.blocks[i] for i in range(first, first + 3)})

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            model = plain()
            self.embed, self.head = model.embed, model.head
            self.stages = nn.ModuleDict({"here": nn.ModuleList(half(model).values())})
            if dist.get_rank():
                self.stages = nn.ModuleDict({"there": self.stages["here"]})

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            hidden = self.embed(tokens)
            for blocks in self.stages.values():
                for block in blocks:
                    hidden = hidden + block(hidden)
            return self.head(hidden)

    other_width = plain()
    other_width.blocks[2][1] = nn.Linear(16, 32, bias=bool(dist.get_rank()))
    return [
        run(Stage(), steps=80, pace=_Pace(folder, "stages")),
        run(other_width, steps=80, pace=_Pace(folder, "widths")),
    ]


def steps_left_out(folder: Path) -> dict[str, Any]:
    records: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    handler = Keep()
    logging.getLogger("layerselect.distributed.agreement").addHandler(handler)
    agreement_module._LOOKS, looks = 5, agreement_module._LOOKS
    ended = run(wrap("ddp", plain()), "all", steps=30, skips=tuple(range(1, 30, 2)))
    dist.barrier()
    other = run(wrap("ddp", plain()), "random:k=2", steps=30, skips=tuple(range(2, 31)))
    agreement_module._LOOKS = looks
    logging.getLogger("layerselect.distributed.agreement").removeHandler(handler)
    return {"ended": [ended, other], "said": records}


def alike(folder: Path) -> list[tuple[int, str]]:
    """No false alarm: after a selector of one process alone, several at once, over the 100th step, under every
    engine.
    """
    if dist.get_rank() == 0:
        with FastSelector(plain(), "topk:k=2", mode="gate", capture="step") as alone:
            for step in range(4):
                loss_of(alone._model, step).backward()
                alone.step()
    forgotten = FastSelector(plain(), "topk:k=1", mode="gate") if dist.get_rank() else None
    dist.barrier()
    ended = [run(wrap(engine, plain()), steps=steps) for engine, steps in (("ddp", 102), ("fsdp2", 12))]
    del forgotten
    first, second = (wrap("ddp", plain(seed=seed)) for seed in (0, 1))
    both = [FastSelector(model, "topk:k=2") for model in (first, second)]
    for step in range(12):
        for model, selector in zip((first, second), both, strict=True):
            loss_of(model, step).backward()
            selector.step()
            model.zero_grad()
    for selector in both:
        selector.close()
    dist.barrier()
    return ended


def after_a_bad_run(folder: Path) -> list[tuple[int, str]]:
    """What was said to one selector is not heard by the next, also where the first was not closed."""
    bad = run(wrap("ddp", plain()), "random:k=2", seed=dist.get_rank(), close=False)
    return [bad, run(wrap("ddp", plain()), "random:k=2")]


def groups_of_one(folder: Path) -> list[tuple[int, str]]:
    """Models of their own in groups of their own are nobody else's."""
    groups = [dist.new_group([rank]) for rank in range(PROCESSES)]
    model = DistributedDataParallel(plain(), process_group=groups[dist.get_rank()])
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2, 1), mesh_dim_names=("apart", "shard"))
    sharded = plain()
    fully_shard(sharded, mesh=mesh["shard"])
    return [run(one, "random:k=2", seed=dist.get_rank(), steps=12) for one in (model, sharded)]


def left_between_two_looks(folder: Path) -> tuple[int, str] | None:
    """The process that compares closes its selector just when the other one has found its token and is about to read
    it.
    """
    store, ended = dist.distributed_c10d._get_default_store(), None
    if dist.get_rank() == 0:
        exchange = agreement_module._Exchange(store, 0, [0, 1], ["a"])
        dist.barrier()
        store.wait(["found"], timedelta(seconds=30))
        exchange.close()
        store.set("closed", "")
    else:
        exchange, patience = agreement_module._Exchange(_Interrupted(store), 1, [0, 1], ["a"]), store.timeout
        dist.barrier()
        exchange.report(2, {"mask": [1]})
        ended = exchange.look(2, anew=True)
        exchange.close()
        store.set_timeout(patience)
    dist.barrier()
    return ended


class _Interrupted:
    """A store whose user is interrupted after it has looked for a token."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def check(self, keys: list[str]) -> bool:
        there = self._store.check(keys)
        if keys[0].endswith("/first"):
            self._store.set("found", "")
            self._store.wait(["closed"], timedelta(seconds=30))
            self._store.set_timeout(
                timedelta(seconds=5)
            )  # else a key that has gone is waited for until all tests have ended
        return there

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


CHECKS = [
    left_between_two_looks,
    unsynchronised,
    seeds_that_differ,
    stages,
    steps_left_out,
    alike,
    after_a_bad_run,
    groups_of_one,
]


def check_all_raise(results: list[list[tuple[int, str]]], *patterns: str, in_step: bool = False) -> None:
    for (step, message), other in zip(*results, strict=True):
        assert message and other[1] == message
        assert max(step, other[0]) < 40 and (step == other[0] or not in_step)
        assert all(pattern in message for pattern in patterns), message
        assert message.count(". ") == 0


def test_gradients_that_nobody_averages(returned):
    check_all_raise(
        returned(unsynchronised), "process 1 and process 0 do not choose the same layers", "'blocks.", "no_sync"
    )


def test_seeds_that_differ(returned):
    check_all_raise(returned(seeds_that_differ), "of the selector only process", "same rule and seed", in_step=True)


def test_layers_that_differ(returned):
    names, shapes = zip(*returned(stages), strict=True)
    check_all_raise(
        [[one] for one in names], "process 1 has 'stages.there.0' as its layer 0", "process 0 has 'stages.here.0'"
    )
    check_all_raise([[one] for one in shapes], "process 1 trains other parameters in layer 'blocks.2'")


def test_a_process_that_leaves_steps_out_stops_nobody(returned):
    first, second = returned(steps_left_out)
    assert [step for step, _ in first["ended"]] == [30, 30] and not any(message for _, message in first["ended"])
    assert first["ended"] == second["ended"]
    assert len(first["said"]) == 2 and all("process 1 has not come that far" in text for text in first["said"])


def test_processes_that_agree_are_left_alone(returned):
    for ended in returned(alike):
        assert ended == [(102, ""), (12, "")]
    for ended in returned(groups_of_one):
        assert ended == [(12, ""), (12, "")]


def test_nobody_waits_for_a_process_that_leaves_just_now(returned):
    assert returned(left_between_two_looks) == [None, None]


def test_what_was_reported_to_others_is_not_read(returned):
    for bad, good in returned(after_a_bad_run):
        assert bad[1] and good == (20, "")
