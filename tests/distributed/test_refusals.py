"""What an engine does not stand is refused before the processes drift apart; what is right is let through."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from layerselect import FastSelector, LayerSelectError
from layerselect.distributed.sharding import is_sharded
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.training import loss_of, train, wrap
from tests.helpers.models import plain

PROCESSES = 2
FREEZE = {"rule": "random:k=2", "mode": "freeze", "seed": 3}


def refuses(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(LayerSelectError, match=message) as caught:
        call()
    assert len(re.findall(r"\. ", str(caught.value))) == 0  # one sentence


def selectors(folder: Path) -> None:
    late = "capture='backward' cannot measure the right gradients here.*use capture='step'"
    for engine in ("ddp", "fsdp2", "none"):
        refuses(late, lambda engine=engine: FastSelector(wrap(engine, plain()), capture="backward"))
    for options, reason in (
        ({}, "without find_unused_parameters=True"),
        ({"static_graph": True, "find_unused_parameters": True}, "with static_graph=True"),
    ):
        model = wrap("ddp", plain(), **options)
        refuses(f"{reason}.*or use mode='gate'", lambda model=model: FastSelector(model, mode="freeze"))
        # Also where it stands further inside.
        refuses(reason, lambda model=model: FastSelector(nn.ModuleDict({"inner": model}), mode="freeze"))
        assert FastSelector(model).mode == "gate"
    refuses("fully_shard", lambda: FastSelector(FullyShardedDataParallel(plain(), device_id=torch.device("cpu"))))


def freezing_before_ddp(folder: Path) -> dict[str, Any]:
    """The selector is built first and cannot know what is coming."""
    model = plain()
    selector = FastSelector(model, **FREEZE)
    refuses("was none: give the selector the module", lambda: backward_around(model, selector))
    assert selector.trained() == list(range(6))

    model = plain()
    selector = FastSelector(model, **FREEZE)
    wrapped = DistributedDataParallel(model)
    refuses("without find_unused_parameters=True", lambda: loss_of(wrapped, 0))
    selector.close()
    loss_of(wrapped, 0).backward()

    model = plain()
    selector = FastSelector(model, **FREEZE)
    loss_of(model, 0).backward()
    late = DistributedDataParallel(model, find_unused_parameters=True)
    refuses("wrap it first, then build the selector", lambda: loss_of(late, 0))

    # And where all is well, the same as if the engine had been there.
    model = plain()
    selector = FastSelector(model, **FREEZE)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
    selector.attach(optimizer)
    with torch.no_grad():
        loss_of(model, 0)  # is no training and shows nothing
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    masks = []
    for step in range(12):
        loss_of(wrapped, step).backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
        masks.append(selector.mask.clone())
    assert len(selector.trained()) == 2
    return {"masks": torch.stack(masks), "weights": [p.detach().clone() for p in model.parameters()]}


def backward_around(model: nn.Module, selector: FastSelector) -> None:
    hidden = model.embed(torch.zeros(2, 3, dtype=torch.int64))
    for block in model.blocks:
        hidden = hidden + block(hidden)
    model.head(hidden).sum().backward()
    selector.step()


def before_fully_shard(folder: Path) -> list[torch.Tensor]:
    """The selector follows the parameters that take the others' place; an optimizer cannot."""
    masks = []
    for settings in ({}, {"mode": "freeze", "probe_every": 3}):
        model = plain()
        selector = FastSelector(model, "topk:k=2", **settings)
        early = torch.optim.SGD(model.parameters(), lr=0.1)
        wrap("fsdp2", model)
        refuses("the optimizer lacks 39 of the 39", lambda: selector.attach(early))  # noqa: B023
        parameters = selector.trainable_parameters()
        assert all(map(is_sharded, parameters)) and selector.capture == "step"
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        selector.attach(optimizer)
        masks.append([])
        for step in range(8):
            loss_of(model, step).backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
            masks[-1].append(selector.mask.clone())
    return [torch.stack(rows) for rows in masks]


def gathered_parameters(folder: Path) -> None:
    """A forward pass without a backward pass leaves gathered parameters in place: they are not the model's."""
    model = wrap("fsdp2", plain())
    with torch.no_grad():
        loss_of(model, 0)
    assert not is_sharded(model.embed.weight)
    selector = FastSelector(model)
    assert all(map(is_sharded, selector.trainable_parameters()))
    parameters = selector.trainable_parameters()
    model.set_reshard_after_backward(False)
    loss_of(model, 0).backward()
    assert not is_sharded(model.embed.weight)
    selector.step()
    assert all(a is b for a, b in zip(parameters, selector.trainable_parameters(), strict=True))


def a_model_of_ones_own(folder: Path) -> dict[str, Any] | None:
    """One process trains alone, the other does not even know."""
    own = None
    if dist.get_rank() == 0:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.distributed.training.ranks", lambda: (0, 1))
            own = [train("none", steps=12), train("none", steps=12, **FREEZE)]
    dist.barrier()
    return own


CHECKS = [selectors, freezing_before_ddp, before_fully_shard, gathered_parameters, a_model_of_ones_own]


def test_what_does_not_go_together_is_refused(returned):
    returned(selectors)


def test_ddp_around_a_model_with_a_freezing_selector(returned):
    one, *others = returned(freezing_before_ddp)
    expected = train("none", optimizer="adamw", steps=12, **FREEZE)
    assert torch.equal(one["masks"], expected["masks"])
    for a, b in zip(one["weights"], expected["weights"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    for other in others:
        assert all(map(torch.equal, one["weights"], other["weights"]))


def test_fully_shard_after_the_selector(returned):
    expected = []
    for settings in ({"mode": "gate"}, {"mode": "freeze", "probe_every": 3}):
        model = plain()
        with FastSelector(model, "topk:k=2", **settings) as selector:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            selector.attach(optimizer)
            for step in range(8):
                loss_of(model, step).backward()
                selector.step()
                optimizer.step()
                optimizer.zero_grad()
            expected.append(torch.as_tensor(selector.history.arrays()["mask"]))
    for masks in returned(before_fully_shard):
        assert all(map(torch.equal, masks, expected))


def test_gathered_parameters_are_not_mistaken_for_new_ones(returned):
    returned(gathered_parameters)


def test_a_model_of_ones_own_is_nobody_elses(returned):
    own, nothing = returned(a_model_of_ones_own)
    assert nothing is None
    for run, settings in zip(own, ({"mode": "gate"}, FREEZE), strict=True):
        expected = train("none", steps=12, **settings)
        assert run["mode"] == settings["mode"] and run["capture"] == "step"
        assert torch.equal(run["masks"], expected["masks"])
        assert all(map(torch.equal, run["weights"], expected["weights"]))


def test_a_process_group_that_comes_later_is_noticed(monkeypatch):
    for settings, harmless in (
        ({"mode": "freeze"}, False),
        ({"mode": "gate"}, False),
        ({"mode": "gate", "capture": "step"}, True),
    ):
        with FastSelector(plain(), **settings) as selector, monkeypatch.context() as patch:
            loss_of(selector._model, 0).backward()
            patch.setattr("layerselect.modes.engine_watch.processes", lambda: 2)
            if harmless:
                selector.step()
            else:
                refuses("build the selector after init_process_group", selector.step)
