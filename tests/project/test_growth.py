"""The short form of `make growth`: nothing grows over some selectors, some steps and some Trainers."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

growth = pytest.importorskip("tools.growth", reason="the tools are not beside the tests")

#: Names of cases, and how often each happens. The others are those of the long form.
SHORT = {
    "gate, backward: attached and closed": 25,
    "freeze, backward: attached and closed": 25,
    "freeze, step: steps": 60,
    "cache of hidden states: attached and closed": 2,
    "freeze: Trainers with a callback": 1,
}


@pytest.fixture(autouse=True)
def _few_objects():
    """Those that are there already need not be counted."""
    gc.collect()
    gc.freeze()


@pytest.mark.parametrize("name", SHORT)
def test_nothing_grows(name):
    (case,) = [case for case in growth.cases(1, 1, 1) if case.name == name]
    first, last = growth.run_case(replace(case, times=SHORT[name]))
    more = {what: last[what] - first[what] for what in first}
    assert growth.grown(first, last) == {} and more["hooks"] <= 0
    assert more["objects"] < 20
    if "steps" not in name:
        assert more["tensors"] <= 0


@pytest.mark.parametrize("what", ["tensors", "objects", "hooks", "bytes of Python", "bytes of the state"])
def test_it_sees_what_grows(what):
    kept: list[object] = []
    model = torch.nn.Linear(2, 2)

    class Selector:
        def state_dict(self):
            return {"kept": torch.ones(100 * len(kept) if what == "bytes of the state" else 1)}

    def begin(folder):
        def happens():
            match what:
                case "tensors":
                    kept.append(torch.ones(1))
                case "objects":
                    kept.append([kept])
                case "hooks":
                    model.register_forward_hook(lambda *_: None)
                case "bytes of Python":
                    kept.append(bytearray(10_000))
                case "bytes of the state":
                    kept.append(None)
            return model, Selector()

        return happens

    first, last = growth.run_case(growth.Case("leaks", 80, begin))
    assert what in growth.grown(first, last)
