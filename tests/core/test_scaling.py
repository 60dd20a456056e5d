"""Scaled gradients: scores and norms are those of the unscaled gradient."""

from __future__ import annotations

import math

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from torch.amp import GradScaler

from tests.core.skipping import broken, scaler_of
from tests.helpers.models import plain, plain_loss
from tests.helpers.norms import gradient_norms
from tests.helpers.simulation import variance_split

CAPTURES = ("backward", "step")


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("scale", [2.0**12, 300.0])
@pytest.mark.parametrize("given", ["number", "tensor", "scaler", "unscaled"])
def test_scores_and_norms_are_those_of_the_unscaled_gradient(given, scale, capture, backend):
    model = plain()
    with FastSelector(model, mode="observe", capture=capture, backend=backend) as selector:
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        plain_loss(model).backward()
        expected = gradient_norms(selector, model)
        total = math.sqrt(math.fsum(float(p.grad.double().square().sum()) for p in model.parameters()))
        model.zero_grad()
        scaler = scaler_of(scale)
        scaler.scale(plain_loss(model)).backward()
        if given == "unscaled":
            scaler.unscale_(optimizer)
        selector.step({"number": scale, "tensor": torch.tensor(scale)}.get(given, scaler))
        assert selector.scores.tolist() == pytest.approx(expected, rel=1e-5)
        assert float(selector.total_norm) == pytest.approx(total, rel=1e-5)
        assert set(selector.selected()) == variance_split(expected)


@pytest.mark.parametrize("unscaled", ["before the loss of a hook", "after it", "never"])
def test_what_the_hooks_missed_is_measured_as_it_is(unscaled, backend):
    """A gradient replaced by hand is summed as it is then, and may be unscaled by then; the other sums stay."""
    model = plain()
    with FastSelector(model, mode="observe", capture="backward", backend=backend) as selector:
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        scaler = scaler_of()
        for step in range(2):
            plain_loss(model, step).backward()
            expected = gradient_norms(selector, model)
            model.zero_grad()
            scaler.scale(plain_loss(model, step)).backward()
            if unscaled == "before the loss of a hook":
                scaler.unscale_(optimizer)
            for block in model.blocks[: 3 if step else 0]:
                block[1].weight.grad = block[1].weight.grad.clone()
            if unscaled == "after it":
                scaler.unscale_(optimizer)
            selector.step(scaler)
            assert selector.scores.tolist() == pytest.approx(expected, rel=1e-6), step
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()


@pytest.mark.parametrize("assigned", [False, True])
@pytest.mark.parametrize("capture", CAPTURES)
def test_some_unscaled_and_some_not(capture, assigned):
    """What was measured when the backward pass ended was scaled throughout. Nobody knows that of what was assigned
    since.
    """
    model = plain()
    with FastSelector(model, mode="observe", capture=capture) as selector:
        parameters = selector.trainable_parameters()
        first = torch.optim.SGD(parameters[:10], lr=0.1)
        selector.attach(first, torch.optim.SGD(parameters[10:], lr=0.1))
        plain_loss(model).backward()
        norms = gradient_norms(selector, model)
        model.zero_grad()
        scaler = scaler_of()
        scaler.scale(plain_loss(model)).backward()
        scaler.unscale_(first)
        if assigned:
            model.blocks[0][1].weight.grad = model.blocks[0][1].weight.grad.clone()
            with pytest.raises(LayerSelectError, match="some optimizers have been unscaled"):
                selector.step(scaler)
        else:
            selector.step(scaler)
            assert selector.scores.tolist() == pytest.approx(norms, rel=1e-6)


def test_a_scaler_that_is_not_enabled_scales_and_skips_nothing():
    model = plain()
    with FastSelector(model, "topk:k=6", mode="gate") as selector:
        scaler = GradScaler("cpu", enabled=False)
        handles = broken(model, "layers", selector)
        scaler.scale(plain_loss(model)).backward()
        handles[0].remove()
        selector.step(scaler)
        assert selector.steps == 1 and selector.selected() == [1, 2, 3, 4, 5]


def test_without_an_optimizer_the_scaler_tells_of_those_it_knows():
    model = plain()
    with FastSelector(model, mode="observe", capture="step") as selector:
        scaler = scaler_of()
        plain_loss(model).backward()
        norms = gradient_norms(selector, model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        for unscale in (False, True):
            model.zero_grad()
            scaler.scale(plain_loss(model)).backward()
            if unscale:
                scaler.unscale_(optimizer)
            selector.step(scaler)
            assert selector.scores.tolist() == pytest.approx(norms, rel=1e-6)
            scaler.step(optimizer)
            scaler.update()


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("capture", CAPTURES)
def test_accumulation_under_a_scaler(capture, unscale, backend):
    """Three micro-batches: the score is that of their accumulated, unscaled gradient, in float64 and from the start."""
    model, twin = plain(), plain().double()
    with FastSelector(model, mode="gate", capture=capture, backend=backend) as selector:
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        scaler = scaler_of()
        for step in range(3):
            for micro in range(3):
                scaler.scale(plain_loss(model, 10 * step + micro) / 3).backward()
                (plain_loss(twin, 10 * step + micro) / 3).backward()
            if unscale:
                scaler.unscale_(optimizer)
            selector.step(scaler)
            assert selector.scores.tolist() == pytest.approx(gradient_norms(selector, twin), rel=1e-5)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            twin.zero_grad()
            with torch.no_grad():
                for p, q in zip(model.parameters(), twin.parameters(), strict=True):
                    q.copy_(p)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_float16_under_autocast(mode, fused):
    """The real thing: gradients that overflow until the scale has come down, and the scores of those that do not."""
    model = plain()
    selector = FastSelector(model, "topk:k=3", mode=mode, probe_every=4)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-3, fused=fused)
    selector.attach(optimizer)
    scaler = scaler_of(2.0**24)
    closed = 0
    for attempt in range(16):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = plain_loss(model, attempt)
        scale = scaler.scale(torch.ones(())).item()
        scaler.scale(loss).backward()
        active, norms = selector.trained(), gradient_norms(selector, model)
        selector.step(scaler)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        kept = scaler.get_scale() == scale
        closed += kept
        assert selector.steps == closed
        if kept:
            assert [float(selector.scores[i]) for i in active] == pytest.approx(
                [norms[i] / scale for i in active], rel=1e-5
            )
            assert len(selector.selected()) == 3
    assert 4 < closed < 16
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.0, "grad_scale=0.0 is not a positive number"),
        (math.nan, "grad_scale=nan is not a positive"),
        (True, "grad_scale=True is no number"),
        ("2", "grad_scale='2' is no number, Tensor or torch.amp.GradScaler"),
        (torch.ones(2), "grad_scale has 2 elements"),
        (GradScaler("cpu"), "scaled nothing yet: call scaler.scale"),
    ],
)
def test_bad_scales(given, message):
    model = plain()
    with FastSelector(model, mode="observe") as selector:
        plain_loss(model).backward()
        with pytest.raises(LayerSelectError, match=message):
            selector.step(given)
        assert selector.steps == 0


def test_a_step_after_that_of_the_scaler_is_refused():
    model = plain()
    with FastSelector(model, mode="observe") as selector:  # elsewhere the optimizer's step is refused
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        scaler = scaler_of()
        scaler.scale(plain_loss(model)).backward()
        scaler.step(optimizer)
        with pytest.raises(LayerSelectError, match="call selector.step.. before scaler.step"):
            selector.step(scaler)
