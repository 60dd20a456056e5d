"""Wrappers around optimizers: what passes the call on is looked through, what may move weights is refused."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.modes.optimizers import check_parameters, unwrap_optimizer
from torch import nn

from tests.helpers.models import plain, plain_loss
from tests.helpers.wrappers import Forwarding, Lookahead, Schedule, SharpnessAwareInTwoCalls, moved, weights_of


def sgd(parameters=None):
    return torch.optim.SGD(parameters or plain(1).parameters(), lr=0.1)


def from_module(name, kind):
    """``kind`` as if it came from another package."""
    return type(kind.__name__, (kind,), {"__module__": name})


def refuses(message, call):
    with pytest.raises(LayerSelectError, match=message) as caught:
        call()
    assert len(re.findall(r"\. ", str(caught.value))) == 0  # one sentence


@pytest.mark.parametrize("mode", ["gate", "freeze"])
@pytest.mark.parametrize(
    "place", ["optimizer", "base_optimizer", "inner_optimizer", "optim", "_optimizer", "_base_optimizer", "fast"]
)
def test_an_optimizer_around_another_is_refused(place, mode):
    model = plain(2)
    with FastSelector(model, mode=mode) as selector:
        wrapper = Lookahead(sgd(selector.trainable_parameters()), place=place)
        refuses(
            rf"Lookahead wraps SGD.*selector.attach\(optimizer.{place}\).*mode='observe'",
            lambda: selector.attach(wrapper),
        )
        refuses("Lookahead wraps SGD", lambda: selector.attach(Schedule(wrapper)))


def test_sharpness_in_two_calls_is_refused():
    with FastSelector(plain(2), mode="gate") as selector:
        wrapper = SharpnessAwareInTwoCalls(selector.trainable_parameters(), torch.optim.SGD, lr=0.1)
        refuses("wraps SGD and steps in two calls.*train with SGD alone", lambda: selector.attach(wrapper))
        # One that is no Optimizer says it by its methods.
        plain_one = SimpleNamespace(optimizer=sgd(), first_step=print, second_step=print)
        refuses("steps in two calls", lambda: unwrap_optimizer(plain_one))


def test_one_with_several_inside_is_refused():
    class Both(torch.optim.Optimizer):
        def __init__(self, parameters):
            self.optimizers = [torch.optim.SGD(parameters[:3], lr=0.1), torch.optim.Adam(parameters[3:])]
            self.param_groups = [group for one in self.optimizers for group in one.param_groups]

    both = Both(list(plain(1).parameters()))
    refuses(
        r"Both wraps SGD and Adam.*attach\(optimizer.optimizers\[0\], optimizer.optimizers\[1\]\)",
        lambda: unwrap_optimizer(both),
    )


def test_a_wrapper_that_is_no_optimizer_and_moves_weights_is_refused():
    for name, inside in (("Lookahead", "optimizer"), ("ScheduleFreeWrapper", "base"), ("SAM", "base_optimizer")):
        wrapper = type(name, (), {})()
        setattr(wrapper, inside, sgd())
        refuses(f"{name} wraps SGD", lambda wrapper=wrapper: unwrap_optimizer(wrapper))


def test_where_nothing_is_governed_every_wrapper_will_do():
    with FastSelector(plain(2), mode="observe") as selector:
        inner = sgd(selector.trainable_parameters())
        for wrapper in (inner, Schedule(inner), Lookahead(inner), Lookahead(inner, place="fast")):
            selector.attach(wrapper)
            assert selector._optimizers == [inner]


def test_an_optimizer_without_hooks_is_refused():
    class Bare(torch.optim.Optimizer):
        def __init__(self, parameters):
            self.param_groups = [{"params": list(parameters)}]

    refuses("Bare was built without Optimizer.__init__.*super", lambda: unwrap_optimizer(Bare(plain(1).parameters())))


def test_what_passes_the_call_on_is_looked_through():
    inner = sgd()
    assert unwrap_optimizer(inner) is inner
    assert unwrap_optimizer(Schedule(inner)) is inner
    assert unwrap_optimizer(Schedule(Schedule(inner))) is inner
    assert unwrap_optimizer(Forwarding(inner)) is inner
    for package in ("accelerate.optimizer", "lightning.fabric.wrappers", "pytorch_lightning.core.optimizer"):
        assert unwrap_optimizer(from_module(package, Lookahead)(inner)) is inner


def test_accelerate():
    accelerate = pytest.importorskip("accelerate")
    accelerate.Accelerator(cpu=True)
    inner = sgd()
    wrapped = accelerate.optimizer.AcceleratedOptimizer(inner)
    assert unwrap_optimizer(wrapped) is inner
    around = SharpnessAwareInTwoCalls(plain(1).parameters(), torch.optim.SGD, lr=0.1)
    refuses("InTwoCalls wraps", lambda: unwrap_optimizer(accelerate.optimizer.AcceleratedOptimizer(around)))
    from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper

    refuses("is DeepSpeed's.*fully_shard", lambda: unwrap_optimizer(DeepSpeedOptimizerWrapper(inner)))


def test_what_is_no_optimizer_is_refused():
    refuses("needs a torch.optim.Optimizer, not builtins.list", lambda: unwrap_optimizer([]))
    refuses("not the GradScaler", lambda: unwrap_optimizer(torch.amp.GradScaler("cpu", enabled=False)))
    refuses(
        "needs a torch.optim.Optimizer, not types.SimpleNamespace",
        lambda: unwrap_optimizer(SimpleNamespace(optimizer=SimpleNamespace())),
    )


def test_engines_of_others_are_named():
    class Lomo(torch.optim.SGD):
        def fused_backward(self, loss, lr):
            raise NotImplementedError

    parameters = list(plain(1).parameters())
    refuses("Lomo steps inside the backward pass", lambda: unwrap_optimizer(Lomo(parameters)))
    layerwise = sgd(parameters)
    layerwise.optimizer_dict = {p: sgd([p]) for p in parameters}
    refuses("an optimizer of each parameter, which steps inside", lambda: unwrap_optimizer(layerwise))
    refuses(
        "an optimizer of each parameter",
        lambda: unwrap_optimizer(SimpleNamespace(optim_map={"a": sgd()})),
    )
    zero = from_module("deepspeed.runtime.zero.stage_1_and_2", torch.optim.SGD)(parameters, lr=0.1)
    refuses("is DeepSpeed's", lambda: unwrap_optimizer(zero))
    refuses("is DeepSpeed's", lambda: unwrap_optimizer(Schedule(zero)))
    megatron = from_module("megatron.core.optimizer.distrib_optimizer", torch.optim.SGD)(parameters, lr=0.1)
    refuses("is Megatron's", lambda: unwrap_optimizer(megatron))
    apex = sgd(parameters)
    apex._amp_stash = SimpleNamespace(fp32_from_fp16_groups=[parameters])
    refuses("master weights", lambda: unwrap_optimizer(apex))


def test_transformers_layerwise_optimizers_are_named():
    utilities = pytest.importorskip("transformers.trainer_pt_utils")
    refuses("an optimizer of each parameter", lambda: unwrap_optimizer(utilities.LayerWiseDummyOptimizer({})))


def test_master_weights_are_named():
    model = plain(2).to(torch.bfloat16)
    masters = sgd([p.detach().float().requires_grad_() for p in model.parameters()])
    refuses("float32 copies.*autocast", lambda: check_parameters([masters], list(model.named_parameters())))


def test_an_optimizer_whose_step_is_compiled_is_gated():
    model = plain(4)
    with FastSelector(model, "random:k=1", mode="gate", seed=1) as selector:
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2, foreach=True)
        selector.attach(optimizer)
        step = torch.compile(lambda: optimizer.step(), backend="eager")
        for seed in range(4):
            before = weights_of(model.blocks)
            plain_loss(model, seed).backward()
            selector.step()
            step()
            optimizer.zero_grad()
            assert moved(before, model.blocks) == selector.selected()


def test_of_zero_redundancy_the_outer_one_is_gated():
    """It divides the work, and hands the results out in its own step."""
    kind = type("ZeroRedundancyOptimizer", (torch.optim.SGD,), {})
    zero = kind(plain(1).parameters(), lr=0.1)
    zero.optim = sgd()
    assert unwrap_optimizer(zero) is zero
    assert isinstance(zero.optim, torch.optim.Optimizer) and not isinstance(zero, nn.Module)
