"""GradientMonitor of both backends in every situation in which hooks are known to go wrong.

The rule throughout: after finish(), sqnorms are those of the gradients that are there.
"""

from __future__ import annotations

import copy
import gc
import threading

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.monitored import Stack, assert_sums, inputs, step


def test_accumulation_gives_the_norm_of_the_sum(watch):
    model = Stack()
    monitor = watch(model)
    for seed in range(4):
        (model(inputs(seed)) / 4).backward()
    assert monitor.finish() == [0, 1, 2, 3, 4]
    assert_sums(monitor, model.parameters())


@pytest.mark.parametrize("set_to_none", [True, False])
def test_requires_grad_off_and_on(watch, set_to_none):
    model = Stack()
    monitor = watch(model)
    step(monitor, model)
    held = monitor.sqnorms[:4].clone()
    model.blocks[0].requires_grad_(False)
    model.zero_grad(set_to_none=set_to_none)
    model(inputs(1)).backward()
    measured = monitor.finish()
    if set_to_none:  # nothing of block 0 requires or has a gradient: its sums are held
        assert measured == [1, 2, 3, 4]
        assert torch.equal(monitor.sqnorms[:4], held)
        assert monitor.sqnorms[4:].tolist() == pytest.approx(
            [(p.grad.double() ** 2).sum().item() for p in list(model.parameters())[4:]], rel=1e-6
        )
    else:  # there are gradients, but no backward pass has touched them since they were zeroed
        assert measured == [1, 2, 3, 4]
        assert_sums(monitor, model.parameters())
    assert monitor.computed_in_backward == 4
    model.blocks[0].requires_grad_(True)
    assert step(monitor, model, 2) == [0, 1, 2, 3, 4]
    assert monitor.computed_in_backward == 5 and monitor.rearmed == 0


def test_one_frozen_parameter_does_not_hold_up_its_group(watch):
    model = Stack()
    monitor = watch(model)
    model.blocks[2][0].weight.requires_grad_(False)
    step(monitor, model)
    assert monitor.computed_in_backward == 5


def test_attached_while_frozen(watch):
    model = Stack().requires_grad_(False)
    monitor = watch(model)
    assert not any(p.requires_grad for p in model.parameters())
    model.requires_grad_(True)
    step(monitor, model)
    assert monitor.computed_in_backward == 5 and monitor.rearmed == 0


def test_module_to_another_dtype_and_back(watch, backend):
    model = Stack()
    monitor = watch(model)
    step(monitor, model)
    model.to(torch.float64)
    model.zero_grad()
    model(inputs().double()).backward()
    monitor.finish()
    assert_sums(monitor, model.parameters())
    # The compiled hooks die with the node of the old dtype and are put back; Python's live on the tensor.
    assert monitor.rearmed == (18 if backend == "native" else 0)
    model.zero_grad()
    model(inputs(1).double()).backward()
    assert_sums(monitor, model.parameters())  # the new hooks work
    monitor.finish()
    assert monitor.computed_in_backward == 5
    model.to(torch.float32)  # with gradients, which are converted in place
    monitor.finish()
    assert_sums(monitor, model.parameters())
    step(monitor, model, 2)


def test_one_dead_hook_is_not_a_stale_sum(watch):
    model = Stack()
    monitor = watch(model)
    step(monitor, model)
    weight = model.blocks[1][0].weight
    weight.data = weight.data.double()
    weight.data = weight.data.float()
    for seed in range(1, 4):
        step(monitor, model, seed)
        assert monitor.computed_in_backward == 5


def test_load_state_dict_and_new_data(watch):
    model = Stack()
    monitor = watch(model)
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    model.head.weight.data = torch.randn(1, 8)
    step(monitor, model)
    assert monitor.computed_in_backward == 5 and monitor.rearmed == 0


@pytest.mark.parametrize("kind", ["reentrant", "not reentrant"])
def test_checkpointing(watch, kind):
    model = Stack(checkpointing=kind)
    monitor = watch(model)
    for seed in range(2):
        model.zero_grad()
        model(inputs(seed, requires_grad=True)).backward()
        assert_sums(monitor, model.parameters())
        assert monitor.finish() == [0, 1, 2, 3, 4]
        assert monitor.computed_in_backward == 5


@pytest.mark.parametrize("kind", ["reentrant", "not reentrant"])
def test_a_layer_shared_by_two_checkpointed_segments(watch, kind):
    model = Stack(checkpointing=kind)
    model.blocks[2] = model.blocks[0]  # its parameters are counted once, as block 0
    monitor = watch(model)
    for seed in range(2):
        model.zero_grad()
        model(inputs(seed, requires_grad=True)).backward()
        assert monitor.finish() == [0, 1, 3, 4]
        assert_sums(monitor, model.parameters())


def test_tied_weights_in_two_groups(watch):
    model = Stack()
    model.blocks[3][0].weight = model.blocks[1][0].weight
    monitor = watch(model)
    step(monitor, model)


def test_a_second_backward_pass(watch):
    model = Stack()
    monitor = watch(model)
    loss = model(inputs())
    loss.backward(retain_graph=True)
    first = monitor.sqnorms.clone()
    loss.backward()
    assert_sums(monitor, model.parameters())
    assert monitor.sqnorms.tolist() == pytest.approx((4 * first).tolist())
    monitor.finish()
    assert_sums(monitor, model.parameters())


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_double_backward(watch):
    model = Stack()
    monitor = watch(model)
    x = inputs(requires_grad=True)
    model(x).backward(create_graph=True)
    x.grad.square().sum().backward()
    monitor.finish()
    assert_sums(monitor, model.parameters())
    model.zero_grad()
    gc.collect()  # create_graph makes a reference cycle through the parameters


def test_parameters_without_a_gradient(watch):
    model = Stack()
    model.blocks[1].unused = nn.Parameter(torch.ones(3))
    monitor = watch(model)
    for seed in range(2):
        step(monitor, model, seed)
        assert monitor.computed_in_backward == 5  # the incomplete group when the backward pass ended


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_layer_left_out_of_one_step(watch, set_to_none):
    """It is not measured, and the others are as the backward pass left them."""
    model = Stack()
    monitor = watch(model)
    step(monitor, model)
    block, model.blocks[1] = model.blocks[1], nn.Identity()
    for module in (model, block):
        module.zero_grad(set_to_none)
    for seed in (1, 2):  # the second time nothing was zeroed
        model(inputs(seed)).backward()
        left = [float(p.grad.double().square().sum()) for p in model.parameters()]
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        assert monitor.finish() == [0, 2, 3, 4]
        assert monitor.late == ([] if set_to_none or seed == 2 else [4, 5, 6, 7])
        assert not monitor.sqnorms[4:8].any()
        assert [*monitor.sqnorms[:4], *monitor.sqnorms[8:]] == pytest.approx(left, rel=1e-6)
    model.blocks[1] = block
    step(monitor, model, 2)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_parameter_left_out_of_one_step(watch, set_to_none):
    """It counts 0, and so does the zero that was left for it; its layer is measured in the backward pass."""
    model = Stack()
    monitor = watch(model)
    step(monitor, model)
    model.zero_grad(set_to_none)
    weight = model.blocks[1][0].weight
    model.blocks[1][0].forward = lambda x: nn.functional.linear(x, weight.detach(), model.blocks[1][0].bias)
    model(inputs(1)).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    before = monitor.sqnorms.clone()
    assert monitor.finish() == [0, 1, 2, 3, 4] and monitor.late == []
    assert torch.equal(monitor.sqnorms, before)
    assert monitor.sqnorms[4] == 0.0 and bool(monitor.sqnorms[5:].all())


def test_gradients_assigned_by_hand_to_a_layer_that_no_hook_reports(watch):
    model = Stack()
    monitor = watch(model)
    step(monitor, model)
    model.zero_grad()
    for parameter in model.blocks[1].parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    assert monitor.finish() == [1] and monitor.late == [4, 5, 6, 7] and not monitor.fired
    assert_sums(monitor, model.parameters())
    for parameter in model.blocks[1].parameters():
        parameter.grad.mul_(3)
    assert monitor.finish() == [1]
    assert_sums(monitor, model.parameters())


def test_autocast_bfloat16(watch):
    model = Stack()
    monitor = watch(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(inputs())
    loss.backward()
    assert_sums(monitor, model.parameters())
    monitor.finish()
    assert_sums(monitor, model.parameters())


def test_compiled_model(watch):
    model = Stack()
    monitor = watch(model)
    compiled = torch.compile(model, backend="aot_eager")
    for seed in range(2):
        model.zero_grad()
        compiled(inputs(seed)).backward()
        assert monitor.finish() == [0, 1, 2, 3, 4]
        assert_sums(monitor, model.parameters())
    assert monitor.computed_in_backward == 5


def test_a_backward_pass_that_breaks_off(watch):
    model = Stack()
    model.blocks[3].unused = nn.Parameter(torch.ones(3))
    monitor = watch(model)
    step(monitor, model)

    def refuse(_: Tensor) -> None:
        raise RuntimeError("stop here")

    handle = model.blocks[1][2].weight.register_hook(refuse)
    with pytest.raises(RuntimeError, match="stop here"):
        model(inputs(1)).backward()  # some gradients have been added to, in place
    monitor.finish()
    assert_sums(monitor, model.parameters())
    handle.remove()
    step(monitor, model, 2)
    assert monitor.computed_in_backward == 5


def test_backward_passes_on_several_threads(watch):
    shared = Stack()
    monitor = watch(shared)

    def work(seed: int) -> None:
        for i in range(20):
            shared(inputs(seed + i)).backward()

    threads = [threading.Thread(target=work, args=(100 * i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monitor.finish()
    assert_sums(monitor, shared.parameters())
