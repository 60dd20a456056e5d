"""Not-a-number stays where it is: one layer's, with every way of clipping; and where it was spread, nothing moves."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from layerselect import FastSelector
from layerselect.core import step as core_module
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from tests.helpers.gated import OPTIMIZERS, Lion, everything_of
from tests.helpers.models import plain, plain_loss

BAD = 2


@pytest.fixture(params=["host", "device"])
def decides(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, native) -> str:
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: request.param == "device")
    return request.param


@contextmanager
def spoiled(weight: nn.Parameter, value: float = math.nan) -> Iterator[None]:
    """The first row of this parameter's gradient is ``value``."""
    handle = weight.register_hook(lambda g: g.index_fill(0, torch.tensor(0), value))
    yield
    handle.remove()


def clip_by_torch(selector: FastSelector) -> None:
    torch.nn.utils.clip_grad_norm_([p for p in selector.trainable_parameters() if p.grad is not None], 0.5)


def clip_by_hand(selector: FastSelector) -> None:
    """Out of place, as some loops have it: other tensors in the place of the gradients."""
    held = [p for p in selector.trainable_parameters() if p.grad is not None]
    norm = torch.stack([p.grad.norm() for p in held]).norm()
    for p in held:
        p.grad = p.grad * (0.5 / (norm + 1e-6)).clamp(max=1.0)


def clip_by_selector(selector: FastSelector) -> None:
    selector.clip_grad_norm_(0.5)


#: Before step(), after it.
CLIPS: dict[str, tuple[list[Callable], list[Callable]]] = {
    "none": ([], []),
    "selector": ([], [clip_by_selector]),
    "before": ([clip_by_torch], []),
    "after": ([], [clip_by_torch]),
    "by hand, after": ([], [clip_by_hand]),
    "before, and the selector": ([clip_by_torch], [clip_by_selector]),
    "the selector, and after": ([], [clip_by_selector, clip_by_torch]),
}
KINDS = {
    "adamw fused": lambda ps: AdamW(ps, lr=1e-2, fused=True),
    "adamw": lambda ps: AdamW(ps, lr=1e-2),
    "sgd momentum fused": lambda ps: SGD(ps, lr=0.05, momentum=0.9, weight_decay=0.1, fused=True),
    "lion": Lion,
}


def assert_finite(model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    for name, p in model.named_parameters():
        assert p.isfinite().all(), name
    for optimizer in optimizers:
        for state in optimizer.state.values():
            assert all(value.isfinite().all() for value in state.values() if isinstance(value, Tensor))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("mode", ["gate", "freeze"])
@pytest.mark.parametrize("capture", ["backward", "step"])
def test_one_layer(decides, mode, clip, kind, capture):
    model = plain()
    value = math.inf if capture == "step" else math.nan
    with FastSelector(model, "all", mode=mode, lag=0, capture=capture) as selector:
        optimizer = KINDS[kind](selector.trainable_parameters())
        selector.attach(optimizer)
        for step in range(4):
            with spoiled(model.blocks[BAD][1].weight, value if step in (0, 2) else 1.0):
                plain_loss(model, step).backward()
            before = everything_of(optimizer, model.parameters())
            layer = everything_of(optimizer, model.blocks[BAD].parameters())
            early, late = CLIPS[clip]
            for act in early:
                act(selector)
            selector.step()
            for act in late:
                act(selector)
            optimizer.step()
            assert_finite(model, optimizer)
            if step in (0, 2):
                assert everything_of(optimizer, model.blocks[BAD].parameters()) == layer
                # Where the host knows in time which layer it is, only that one is left out.
                spread = clip.startswith("before") or (decides == "device" and clip.endswith(", and after"))
                spread = spread or (decides == "device" and clip in ("after", "by hand, after"))
                assert (everything_of(optimizer, model.parameters()) == before) == spread
            else:
                assert everything_of(optimizer, model.parameters()) != before
            # Whoever logs gradients after the step finds them all.
            assert mode == "freeze" or all(p.grad is not None for p in model.parameters())
            optimizer.zero_grad()


@pytest.mark.parametrize("kind", KINDS)
def test_the_others_train_as_if_it_had_no_gradient(decides, kind):
    """Bit for bit, with the selector's own clipping: the norm is that of the others."""
    model, twin = plain(), plain()
    with FastSelector(model, "all", mode="gate") as selector:
        optimizer, other = (KINDS[kind](m.parameters()) for m in (model, twin))
        selector.attach(optimizer)
        for step in range(3):
            with spoiled(model.blocks[BAD][1].weight):
                plain_loss(model, step).backward()
            plain_loss(twin, step).backward()
            for p in twin.blocks[BAD].parameters():
                p.grad = None
            selector.step()
            norm = selector.clip_grad_norm_(0.1)
            wanted = torch.nn.utils.clip_grad_norm_([p for p in twin.parameters() if p.grad is not None], 0.1)
            assert float(norm) == pytest.approx(float(wanted), rel=1e-6)
            assert not math.isfinite(float(selector.total_norm))
            for p, q in zip(model.parameters(), twin.parameters(), strict=True):
                if q.grad is not None:
                    q.grad.copy_(p.grad)
            optimizer.step()
            other.step()
            assert everything_of(optimizer, model.parameters()) == everything_of(other, twin.parameters())
            for each in (optimizer, other):
                each.zero_grad()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["gate", "freeze"])
@pytest.mark.parametrize("several", [False, True])
def test_an_outer_gradient(decides, mode, kind, several, caplog):
    """Nothing moves, in none of the optimizers, whichever comes first; and it is said once."""
    model = plain()
    with FastSelector(model, "topk:k=3", mode=mode, lag=0) as selector:
        held = selector.trainable_parameters()
        optimizers = [KINDS[kind](held[:-2]), KINDS[kind](held[-2:])] if several else [KINDS[kind](held)]
        selector.attach(*optimizers)
        for step in range(5):
            with spoiled(model.head.weight, math.nan if step in (0, 2, 3) else 1.0):
                plain_loss(model, step).backward()
            before = [everything_of(o, model.parameters()) for o in optimizers]
            selector.step()
            for optimizer in optimizers:
                optimizer.step()
            after = [everything_of(o, model.parameters()) for o in optimizers]
            assert (after == before) == (step in (0, 2, 3))
            for optimizer in optimizers:
                optimizer.zero_grad()
    said = [r.message for r in caplog.records if r.levelno == logging.WARNING and "outside the layers" in r.message]
    assert len(said) == (1 if decides == "host" or kind == "lion" else 0)  # a device is asked only where the host gates


def test_an_outer_gradient_that_somebody_repaired(decides):
    if decides == "device":
        pytest.skip("the device's numbers are those of the step")
    model = plain()
    with FastSelector(model, "all", mode="gate") as selector:
        optimizer = AdamW(selector.trainable_parameters(), lr=1e-2)
        selector.attach(optimizer)
        with spoiled(model.head.weight):
            plain_loss(model).backward()
        selector.step()
        model.head.weight.grad.nan_to_num_()
        before = everything_of(optimizer, model.parameters())
        optimizer.step()
        assert everything_of(optimizer, model.parameters()) != before
        assert_finite(model, optimizer)


def test_the_clipping_of_each_optimizer_before_its_step(decides):
    """``for o in optimizers: clip its parameters; o.step()``, and the NaN is in the second one."""
    model = plain()
    with FastSelector(model, "all", mode="gate") as selector:
        held = selector.trainable_parameters()
        half = [AdamW(held[i::2], lr=1e-2) for i in range(2)]
        selector.attach(*half)
        for step in range(3):
            with spoiled(model.blocks[BAD][1].weight):
                plain_loss(model, step).backward()
            selector.step()
            for optimizer in half:
                mine = [p for group in optimizer.param_groups for p in group["params"]]
                torch.nn.utils.clip_grad_norm_(mine, 0.5)
                optimizer.step()
                optimizer.zero_grad()
            assert_finite(model, *half)


def test_a_step_that_never_came_leaves_nothing_behind(decides):
    """Gradients set aside in one step are not given back in another."""
    model = plain()
    with FastSelector(model, "all", mode="gate") as selector:
        optimizer = AdamW(selector.trainable_parameters(), lr=1e-2)
        selector.attach(optimizer)
        with spoiled(model.blocks[BAD][1].weight):
            plain_loss(model).backward()
        selector.step()
        optimizer.zero_grad()  # the user skips it
        plain_loss(model, 1).backward()
        selector.step()
        optimizer.step()
        assert_finite(model, optimizer)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert optimizer.state[model.blocks[BAD][1].weight]["step"] == 1
        # And closing gives back what was set aside.
        optimizer.zero_grad()
        with spoiled(model.blocks[BAD][1].weight):
            plain_loss(model, 2).backward()
        selector.step()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n not in ("replacing", "growing")])
def test_every_optimizer_keeps_its_outer_parameters(decides, name):
    model = plain()
    with FastSelector(model, "all", mode="gate", warmup=1) as selector:
        optimizer = OPTIMIZERS[name](selector.trainable_parameters())
        selector.attach(optimizer)
        for step in range(4):
            with spoiled(model.blocks[BAD][1].weight, math.nan if step == 2 else 1.0):
                plain_loss(model, step).backward()
            before = everything_of(optimizer, model.parameters())
            if step == 2:
                clip_by_torch(selector)
            selector.step()
            optimizer.step()
            assert (everything_of(optimizer, model.parameters()) == before) == (step == 2)
            optimizer.zero_grad()


@pytest.mark.parametrize("mode", ["observe", "gate", "freeze"])
def test_clipping_where_no_gradient_is_left(decides, mode):
    """Nothing outside the layers trains, and nothing of what is selected has a gradient."""
    model = plain()
    for p in (*model.embed.parameters(), *model.head.parameters()):
        p.requires_grad_(False)
    with FastSelector(model, "threshold:gamma=1e9", mode=mode, lag=0) as selector:
        optimizer = AdamW(selector.trainable_parameters(), lr=1e-2)
        selector.attach(optimizer)
        for step in range(3):
            plain_loss(model, step).backward()
            selector.step()
            assert math.isfinite(float(selector.clip_grad_norm_(1.0)))
            optimizer.step()
            optimizer.zero_grad()
