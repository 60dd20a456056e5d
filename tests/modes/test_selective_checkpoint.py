"""When the function in the checkpoint's place checkpoints, and with what."""

from __future__ import annotations

import logging
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from layerselect.modes.input_gradients import InputGradients
from layerselect.modes.selective_checkpoint import SelectiveCheckpoint
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Recorder:
    """A checkpoint function that notes what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple, dict[str, Any]]] = []

    def __call__(self, function, *args, **kwargs):
        self.calls.append((args, kwargs))
        kwargs.pop("use_reentrant", None)
        return function(*args, **kwargs)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def selective(recorder) -> SelectiveCheckpoint:
    return SelectiveCheckpoint(recorder, InputGradients())


def block(trains: bool) -> nn.Linear:
    return nn.Linear(3, 3).requires_grad_(trains)


@pytest.mark.parametrize("how", ["bound", "module", "keywords", "unbound"])
@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_it_checkpoints_where_a_gradient_flows(selective, recorder, how, trains, asked):
    module = block(trains)
    function = {
        "bound": module.__call__,
        "module": module,
        "keywords": partial(module.__call__),
        "unbound": partial(nn.Linear.forward, module),
    }[how]
    hidden = torch.ones(2, 3, requires_grad=asked)
    assert torch.equal(selective(function, hidden), module(hidden))
    assert len(recorder.calls) == (trains or asked)


def test_a_function_that_hides_its_module_is_checkpointed(selective, recorder):
    module = block(False)
    selective(lambda hidden: module(hidden), torch.ones(2, 3))
    assert len(recorder.calls) == 1


@pytest.mark.parametrize(("kind", "asks"), [(None, True), (True, True), (False, False)])
@pytest.mark.parametrize("given", ["bound", "called"])
def test_the_reentrant_kind_gets_an_input_that_requires_a_gradient(recorder, kind, asks, given):
    options = {} if kind is None else {"use_reentrant": kind}
    original = partial(recorder, **options) if given == "bound" else recorder
    mask, hidden = torch.ones(2, dtype=torch.bool), torch.ones(2, 3)

    class Masked(nn.Linear):
        def forward(self, mask: Tensor, hidden: Tensor) -> Tensor:
            return super().forward(hidden)

    called = options if given == "called" else {}
    SelectiveCheckpoint(original, InputGradients())(Masked(3, 3), mask, hidden, **called)
    (args, _) = recorder.calls[0]
    assert args[0] is mask and args[1].requires_grad is asks
    assert not hidden.requires_grad


@pytest.mark.parametrize("place", ["no_grad", "recomputation", "checkpoint"])
def test_it_interferes_with_nobody(selective, recorder, place):
    """What it would call plainly elsewhere."""
    module, hidden = block(False), torch.ones(2, 3)

    def through(x: Tensor) -> Tensor:
        selective(module, hidden)
        return x.sin()

    if place == "no_grad":
        with torch.no_grad():
            through(hidden)
    else:
        through(torch.ones(1))
        assert not recorder.calls
        result = checkpoint(through, torch.ones(1, requires_grad=True), use_reentrant=place == "recomputation")
        if place == "recomputation":
            recorder.calls.clear()
            result.backward()
    assert len(recorder.calls) == 1
    assert recorder.calls[0][0][0] is hidden


def test_options_of_the_checkpoint_do_not_reach_the_block(selective, recorder):
    module = block(False)
    hidden = torch.ones(2, 3)
    assert torch.equal(selective(module, hidden, use_reentrant=False, preserve_rng_state=False), module(hidden))
    assert not recorder.calls


def test_flags_inside_a_block_are_off_while_it_is_called_plainly(selective):
    seen: list[bool] = []
    module = nn.Sequential(block(False), block(False))
    module.gradient_checkpointing = module[1].gradient_checkpointing = True
    module[1].register_forward_hook(lambda m, args, output: seen.append(m.gradient_checkpointing))
    selective(module, torch.ones(2, 3))
    selective(module, torch.ones(2, 3, requires_grad=True))
    with pytest.raises(RuntimeError):
        selective(module, torch.ones(2, 4))
    assert seen == [False, True]
    assert module.gradient_checkpointing and module[1].gradient_checkpointing


def test_what_the_reentrant_kind_would_lose_is_not_checkpointed(caplog):
    module = block(True)
    selective = SelectiveCheckpoint(partial(checkpoint, use_reentrant=True), InputGradients())
    with caplog.at_level(logging.WARNING, "layerselect"):
        for _ in range(2):
            module.zero_grad()
            selective(partial(module.__call__, input=torch.ones(2, 3))).sum().backward()
            assert module.weight.grad is not None
    assert sum("use_reentrant=False would do it" in record.message for record in caplog.records) == 1


def test_a_copy_is_what_stood_there_before():
    original = partial(checkpoint, use_reentrant=True)
    copied = pickle.loads(pickle.dumps(SelectiveCheckpoint(original, InputGradients())))
    assert (copied.func, copied.keywords) == (original.func, original.keywords)
