"""Sharded parameters and moments, whole for a while."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from layerselect.distributed.engines import calls_together
from layerselect.distributed.gathered import gathered, gathered_state, scatter_state
from layerselect.distributed.sharding import held_here, is_sharded
from torch import nn
from torch.distributed.fsdp import fully_shard

PROCESSES = 2


def sharded() -> nn.Module:
    """Seven rows, which two processes cannot hold alike; a weight that stands in two places."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 4, bias=False), nn.Linear(4, 7, bias=False))
    model[2].weight = model[0].weight
    return fully_shard(model)


def for_a_while(folder: Path) -> dict[str, Any]:
    model = sharded()
    kept = dict(model.named_parameters())
    before = {name: p.full_tensor().detach().clone() for name, p in kept.items()}
    with gathered(model):
        inside = {name: p.detach().clone() for name, p in model.named_parameters()}
        tied = model[0].weight is model[2].weight
        with torch.no_grad():
            model[0].weight.zero_()
    unchanged = {name: p.full_tensor().detach() for name, p in model.named_parameters()}
    with gathered(model, {"1.weight"}, changed=True):
        some = [name for name, p in model.named_parameters() if not is_sharded(p)]
        model.load_state_dict({"1.weight": torch.ones(4, 7)}, strict=False)
    back = all(p is kept[name] for name, p in model.named_parameters())
    return {
        "inside": all(torch.equal(inside[name], value) for name, value in before.items()),
        "tied": tied,
        "unchanged": all(torch.equal(unchanged[name], value) for name, value in before.items()),
        "some": some,
        "changed": bool((model[1].weight.full_tensor() == 1).all()),
        "back": back,
        "trains": bool(torch.isfinite(model(torch.ones(2, 4)).sum())),
    }


def raising(folder: Path) -> list[bool]:
    model = sharded()
    before = model[0].weight.full_tensor().detach().clone()
    with pytest.raises(ValueError), gathered(model, changed=True):
        with torch.no_grad():
            model[0].weight.zero_()
        raise ValueError
    return [is_sharded(model[0].weight), torch.equal(model[0].weight.full_tensor(), before)]


def moments(folder: Path) -> list[bool]:
    """An optimizer that is given whole moments goes on as the one that they are of."""
    ends = []
    saved: dict[str, Any] = {}
    for resumed in (False, True):
        model = sharded()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for step in range(4):
            if resumed and step < 2:
                continue
            if resumed and step == 2:
                optimizer.load_state_dict(saved["optimizer"])
                scatter_state(optimizer)
                with gathered(model, changed=True), torch.no_grad():
                    for name, value in saved["weights"].items():
                        model.get_parameter(name).copy_(value)
            model(torch.full((2, 4), 1.0 + step)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if not resumed and step == 1:
                saved["optimizer"] = copy.deepcopy(gathered_state(optimizer.state_dict()))
                saved["weights"] = {name: p.full_tensor().detach().clone() for name, p in model.named_parameters()}
        ends.append([held_here(p).detach().clone() for p in model.parameters()])
    plain = not any(is_sharded(v) for kept in saved["optimizer"]["state"].values() for v in kept.values())
    return [plain, all(torch.equal(one, other) for one, other in zip(*ends, strict=True))]


def calls(folder: Path) -> list[int]:
    rank = torch.distributed.get_rank()
    return [calls_together(sharded(), 3 + rank), calls_together(nn.Linear(2, 2), 3 + rank)]


CHECKS = [for_a_while, raising, moments, calls]


def test_parameters_are_whole_for_a_while(returned):
    for found in returned(for_a_while):
        assert found.pop("some") == ["1.weight"]
        assert all(found.values()), found


def test_what_an_error_leaves_does_not_reach_the_shards(returned):
    assert returned(raising) == [[True, True]] * PROCESSES


def test_moments_are_gathered_and_cut_again(returned):
    assert returned(moments) == [[True, True]] * PROCESSES


def test_a_sharded_model_is_called_as_often_in_each_process(returned):
    assert returned(calls) == [[4, 3], [4, 4]]
