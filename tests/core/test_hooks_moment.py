"""One moment of measurement: both captures give the same scores and masks, bit for bit, of the gradient as the backward
pass left it, whatever happens to it afterwards.
"""

from __future__ import annotations

import copy
import gc
import math

import pytest
import torch
from layerselect import FastSelector
from layerselect.core import step as core_module
from torch import Tensor

from tests.core.moment_programs import LAYERS, PROGRAMS, Net, batch, check_equal, clip, finish, run


@pytest.mark.parametrize("name", PROGRAMS)
def test_both_captures_measure_what_the_backward_pass_left(name, backend):
    outer_trains = name != "reentrant"  # then all gradients appear in passes inside the pass
    runs = [
        run(PROGRAMS[name], capture=capture, backend=backend, outer_trains=outer_trains)
        for capture in ("backward", "step")
    ]
    check_equal(*runs)
    history, expected, counts = runs[0]
    torch.testing.assert_close(history["scores"], expected.float(), rtol=1e-6, atol=0, equal_nan=True)
    assert torch.equal(counts["trained"], (history["mask"] & history["trained"]).sum(0))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_device_measures_the_same(name, monkeypatch):
    on_host = run(PROGRAMS[name], capture="step")
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: True)
    for capture in ("backward", "step"):
        on_device = run(PROGRAMS[name], capture=capture)
        torch.testing.assert_close(
            on_device[0]["scores"], on_host[0]["scores"], rtol=1e-6, atol=0, equal_nan=True, msg=capture
        )
        for column in ("mask", "trained"):
            assert torch.equal(on_device[0][column], on_host[0][column]), (capture, column)
        for count in on_host[2]:
            assert torch.equal(on_device[2][count], on_host[2][count]), (capture, count)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("capture", ["backward", "step"])
@pytest.mark.parametrize("set_to_none", [False, True])
def test_a_layer_without_a_gradient(set_to_none, capture, on_device, monkeypatch):
    """Never measured, it takes no part in the selection and is wanted; measured before, it ranks by its score."""
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: on_device)
    model = Net()
    with FastSelector(model, "all", mode="gate", capture=capture) as selector:
        core = selector._core
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1, weight_decay=0.1)
        selector.attach(optimizer)
        weight = model.blocks[2][0].weight

        def step(number: int, *left_out: int) -> None:
            model.left_out = left_out
            model(batch(number)).backward()
            finish(model, selector, optimizer, set_to_none)

        for number in range(2):
            before = weight.detach().clone()
            step(number, 2)
            assert selector.selected() == [0, 1, 3, 4] and core.state["wanted"].tolist() == [True] * LAYERS
            assert selector.nonfinite.tolist() == [0] * LAYERS and math.isnan(float(selector.scores[2]))
            assert torch.equal(weight, before)  # not even its decay
            assert float(core.state["group_sums"][2]) == 0.0
        step(2)
        assert selector.selected() == [0, 1, 2, 3, 4] and core.unmeasured == [False] * LAYERS
        score = float(selector.scores[2])
        step(3, 2)
        assert selector.selected() == [0, 1, 2, 3, 4] and float(selector.scores[2]) == score
        if not (on_device and not set_to_none):  # there the host cannot know that what is there is zero
            assert core.unmeasured == [False, False, True, False, False]
        assert selector.frequency.tolist() == [4, 4, 2, 4, 4]
        assert selector.trained_frequency.tolist() == [4, 4, 1, 4, 4]


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("capture", ["backward", "step"])
def test_what_is_not_finite_shows_in_the_sums_of_its_group(capture, on_device, monkeypatch):
    """As the backward pass left it: clipping then spreads it."""
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: on_device)
    for where, place in ((lambda m: m.blocks[3][0].bias, 3), (lambda m: m.leave.weight, LAYERS)):
        for value in (math.nan, math.inf):
            model = Net()
            with FastSelector(model, "topk:k=3", mode="observe", capture=capture) as selector:
                where(model).register_hook(lambda g, v=value: g.masked_fill(torch.ones_like(g).bool(), v))
                model(batch(0)).backward()
                clip(model)
                selector.step()
                finite = selector._core.state["group_sums"].isfinite().tolist()
                assert finite == [index != place for index in range(LAYERS + 1)]
                assert selector._core.written()


def test_step_capture_under_compiled_autograd():
    """Which runs no hooks in C++ and none of the engine's callbacks."""
    model, twin = Net(), Net()
    with (
        FastSelector(model, "topk:k=2", mode="gate", capture="step") as selector,
        FastSelector(twin, "topk:k=2", mode="gate", capture="step") as expected,
    ):

        @torch.compile(backend="eager")
        def train(x: Tensor) -> None:
            model(x).backward()

        for step in range(3):
            with torch._dynamo.config.patch(compiled_autograd=True):
                train(batch(step))
            twin(batch(step)).backward()
            for each, its_selector in ((model, selector), (twin, expected)):
                clip(each)
                its_selector.step()
                each.zero_grad()
            torch.testing.assert_close(selector.scores, expected.scores, rtol=1e-5, atol=0)
            assert torch.equal(selector.mask, expected.mask)
            assert not selector._core.taken  # the gradients were where the step looked for them


def test_hooks_go_with_the_selector_and_not_with_copies_of_the_model():
    model = Net()
    selector = FastSelector(model, mode="observe", capture="step")
    copies = copy.deepcopy(model)
    assert not any(p._post_accumulate_grad_hooks for p in copies.parameters())
    selector.close()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    selector = FastSelector(model, mode="observe", capture="step")
    del selector
    gc.collect()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_a_state_of_before_trained_frequency_was_counted():
    model = Net()
    with FastSelector(model, "topk:k=2", mode="observe") as selector:
        model(batch(0)).backward()
        selector.step()
        state = selector.state_dict()
        assert state["core"]["trained_frequency"].sum() == 2
        del state["core"]["trained_frequency"]
        selector.load_state_dict(state)
        assert selector.frequency.sum() == 2 and selector.trained_frequency.sum() == 0
