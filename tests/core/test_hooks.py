"""GradientMonitor of both backends: what it promises, users' hooks, clipping, lifetimes, errors."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.monitored import Stack, assert_sums, inputs, step


def test_sums_are_there_when_the_backward_pass_ends(watch):
    model = Stack()
    monitor = watch(model)
    sqnorms = monitor.sqnorms
    for seed in range(3):
        model.zero_grad()
        model(inputs(seed)).backward()
        assert_sums(monitor, model.parameters())  # before finish()
        assert monitor.finish() == [0, 1, 2, 3, 4]
        assert monitor.computed_in_backward == 5 and monitor.rearmed == 0
    assert sqnorms is monitor.sqnorms or sqnorms.data_ptr() == monitor.sqnorms.data_ptr()
    assert sqnorms.dtype == torch.float64 and sqnorms.shape == (18,)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_group_is_computed_as_soon_as_it_is_complete(native, frozen):
    model = Stack()
    model.blocks[3][0].weight.requires_grad_(not frozen)
    monitor = native.GradientMonitor(list(model.parameters()), model.groups(), 5)
    seen = []
    # The first block's gradients come last: when its input's does, the other blocks have been computed.
    model.blocks[1].register_full_backward_hook(lambda *_: seen.append(monitor.sqnorms[4:].clone()))
    model(inputs(requires_grad=True)).backward()
    assert torch.equal(seen[0][4:], monitor.sqnorms[8:])
    assert seen[0][4:].count_nonzero() == 10 - frozen


def test_finish_without_a_backward_pass_keeps_what_is_there(watch):
    model = Stack()
    monitor = watch(model)
    assert monitor.finish() == [] and not monitor.sqnorms.any()
    step(monitor, model)
    before = monitor.sqnorms.clone()
    assert monitor.finish() == [0, 1, 2, 3, 4] and monitor.computed_in_backward == 0
    assert torch.equal(monitor.sqnorms, before)
    model.zero_grad()
    assert monitor.finish() == [] and not monitor.sqnorms.any()


def test_users_hooks_stay(watch):
    model = Stack()
    seen = []
    weight = model.blocks[0][0].weight
    weight.register_hook(lambda g: seen.append("tensor"))
    weight.register_post_accumulate_grad_hook(lambda p: seen.append("before"))
    monitor = watch(model)
    weight.register_post_accumulate_grad_hook(lambda p: seen.append("after"))
    node = weight.view_as(weight).grad_fn.next_functions[0][0]
    node.register_hook(lambda *_: seen.append("node"))
    step(monitor, model)
    assert sorted(seen) == ["after", "before", "node", "tensor"] and monitor.computed_in_backward == 5
    monitor.close()
    model(inputs()).backward()
    assert sorted(seen) == sorted(["after", "before", "node", "tensor"] * 2)


def test_hooks_of_the_users_that_change_gradients(watch):
    model = Stack()
    weight, bias = model.blocks[3][0].weight, model.head.bias
    weight.register_hook(lambda g: 3 * g)
    monitor = watch(model)

    def enlarge(parameter: Tensor) -> None:
        parameter.grad *= 5

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    weight.register_post_accumulate_grad_hook(enlarge)
    bias.register_post_accumulate_grad_hook(drop)
    step(monitor, model)
    assert monitor.sqnorms[17] == 0


def test_the_sum_is_that_of_the_backward_pass_when_gradients_are_clipped(watch):
    model = Stack()
    monitor = watch(model)
    model(inputs()).backward()
    before = monitor.sqnorms.clone()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    monitor.finish()
    assert torch.equal(monitor.sqnorms, before)
    assert monitor.late == []


def test_gradients_exchanged_behind_the_back_of_autograd(watch):
    model = Stack()
    monitor = watch(model)
    model(inputs()).backward()
    model.head.weight.grad.data = torch.ones(1, 8)  # the same tensor and version, other memory
    monitor.finish()
    assert monitor.sqnorms[16] == 8


def test_what_was_missed_is_computed_and_no_more(watch):
    model = Stack()
    monitor = watch(model)
    model(inputs()).backward()
    before = monitor.sqnorms.clone()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    model.head.weight.grad = model.head.weight.grad.clone()  # another tensor
    assert monitor.finish() == [0, 1, 2, 3, 4]
    assert monitor.late == [16]  # whoever scales sums must know of which moment they are
    now = float(model.head.weight.grad.double().square().sum())
    assert float(monitor.sqnorms[16]) == pytest.approx(now, rel=1e-6) and now < before[16]
    before[16] = monitor.sqnorms[16]
    assert torch.equal(monitor.sqnorms, before)
    step(monitor, model)
    assert monitor.late == []


def test_whether_gradients_were_written_to_since_they_were_measured(watch):
    model = Stack()
    monitor = watch(model)
    assert not monitor.written()
    for write in (
        lambda: nn.utils.clip_grad_norm_(model.parameters(), 1e-3),
        lambda: model.head.bias.grad.mul_(2),
        lambda: setattr(model.head.bias, "grad", torch.ones(1)),
    ):
        step(monitor, model)
        assert not monitor.written()
        model.head.weight.grad = None  # what is gone was not written to
        assert not monitor.written()
        write()
        assert monitor.written()
    monitor.finish()  # which measures what was replaced
    assert not monitor.written()


def test_whether_a_backward_pass_ran(watch):
    """Also where nothing is left of its gradients, as with an optimizer that steps in the backward pass."""
    model = Stack()
    monitor = watch(model)
    monitor.finish()
    assert not monitor.fired
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    model(inputs()).backward()
    assert monitor.finish() == [] and monitor.fired
    assert monitor.finish() == [] and not monitor.fired


def test_what_is_written_without_a_trace_is_told(watch):
    """A GradScaler unscales in place and leaves the version of the tensor as it was."""
    model = Stack()
    monitor = watch(model)
    for missed in (False, True):
        model.zero_grad()
        model(inputs()).backward()
        before = monitor.sqnorms.clone()
        gradients = [p.grad for p in model.parameters()]
        versions = [g._version for g in gradients]
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, torch.zeros(()), torch.tensor(0.25))
        assert [g._version for g in gradients] == versions
        if missed:
            model.head.weight.grad = model.head.weight.grad.clone()
        monitor.finish(written=True)
        assert monitor.late == ([16] if missed else [])
        before[16] *= 0.25**2 if missed else 1.0
        assert monitor.sqnorms.tolist() == pytest.approx(before.tolist(), rel=1e-6)
    # A step without a backward pass: nobody knows what was written to since.
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, torch.zeros(()), torch.tensor(0.25))
    monitor.finish(written=True)
    assert len(monitor.late) == 18
    assert_sums(monitor, model.parameters())


def test_sparse_gradients_are_refused_in_finish_and_not_in_backward(ops_of):
    embedding = nn.Embedding(10, 4, sparse=True)
    monitor = ops_of.GradientMonitor([embedding.weight], [0], 1)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ValueError, match="the gradient of parameter 0 has layout .*[sS]parse.*sparse=False"):
        monitor.finish()


def test_a_gradient_that_is_not_dense_in_memory(ops_of):
    parameter = nn.Parameter(torch.randn(6, 8))
    monitor = ops_of.GradientMonitor([parameter], [0], 1)
    parameter.grad = torch.randn(12, 16)[::2, ::2]
    assert monitor.finish() == [0]
    assert_sums(monitor, [parameter])


def test_parameters_are_freed_with_the_model(watch):
    model = Stack()
    monitor = watch(model, owner=model)
    step(monitor, model)
    sums = monitor.sqnorms.clone()
    alive = [weakref.ref(p) for p in model.parameters()]
    del model
    gc.collect()
    assert all(reference() is None for reference in alive)
    assert torch.equal(monitor.sqnorms, sums)


def test_parameters_are_freed_with_the_monitor_and_on_close(watch):
    for ending in ("close", "delete"):
        model = Stack()
        monitor = watch(model)
        step(monitor, model)
        alive = [weakref.ref(p) for p in model.parameters()]
        del model
        if ending == "close":
            monitor.close()
        else:
            del monitor
        gc.collect()
        assert all(reference() is None for reference in alive), ending


def test_a_monitor_is_freed_while_its_model_lives(watch):
    model = Stack()
    monitor = weakref.ref(watch(model, owner=model))
    gc.collect()
    assert monitor() is None
    model(inputs()).backward()


def test_close(watch):
    model = Stack()
    monitor = watch(model)
    step(monitor, model)
    sums = monitor.sqnorms.clone()
    monitor.close()
    monitor.close()
    model(inputs(1)).backward()
    assert torch.equal(monitor.sqnorms, sums)
    with pytest.raises(ValueError, match="monitor is closed"):
        monitor.finish()


def test_two_monitors_of_one_model(watch):
    model = Stack()
    first, second = watch(model), watch(model)
    step(first, model)
    second.finish()
    assert torch.equal(first.sqnorms, second.sqnorms)
    first.close()
    step(second, model, 1)
    assert second.computed_in_backward == 5


@pytest.mark.parametrize(
    ("parameters", "groups", "num_groups", "message"),
    [
        ([torch.ones(2)], [0, 1], 2, "groups has 2 entries for 1 parameters"),
        ([torch.ones(2)], [2], 2, r"groups\[0\] is 2; it must be in 0\.\.1"),
        ([torch.ones(2)], [-1], 2, r"groups\[0\] is -1"),
        ([torch.ones(2)], [0], -1, "num_groups is -1"),
        ([torch.ones(2), torch.ones(2, requires_grad=True) * 2], [0, 0], 1, r"parameters\[1\] is not a leaf"),
        ([torch.ones(2, dtype=torch.int32)], [0], 1, r"parameters\[0\] has dtype"),
    ],
)
def test_errors_name_the_argument_and_the_value(ops_of, parameters, groups, num_groups, message):
    with pytest.raises(ValueError, match=message):
        ops_of.GradientMonitor(parameters, groups, num_groups)


def test_nothing_to_watch(ops_of):
    monitor = ops_of.GradientMonitor([], [], 3)
    assert monitor.finish() == [] and monitor.sqnorms.shape == (0,)


def test_a_large_group_is_summed_in_parts(ops_of):
    # The compiled monitor does not let more than a mebibyte of gradients wait.
    parameters = [nn.Parameter(torch.zeros(n)) for n in (200_000, 5, 300_000, 70_000, 400_000)]
    monitor = ops_of.GradientMonitor(parameters, [0] * 5, 1)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        for p in parameters:
            p.grad = None
        torch.autograd.backward(parameters, [torch.randn(p.shape, generator=generator) for p in parameters])
        assert_sums(monitor, parameters)
        assert monitor.finish() == [0] and monitor.computed_in_backward == 1
        assert_sums(monitor, parameters)
