"""Scaled gradients and skipped steps: scores of the unscaled gradient, and a skipped step as if it had never been."""

from __future__ import annotations

import math

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from torch import nn
from torch.amp import GradScaler

from tests.helpers.models import plain, plain_loss
from tests.helpers.norms import gradient_norms
from tests.helpers.simulation import Simulation, variance_split

CAPTURES = ("backward", "step")


def scaler_of(scale: float = 2.0**10, **options) -> GradScaler:
    return GradScaler("cpu", init_scale=scale, growth_interval=10**6, **options)


def snapshot(selector: FastSelector) -> dict[str, object]:
    """Everything that a skipped step must leave alone."""
    state = selector.state_dict()
    core = {name: tensor.nan_to_num(-1.0).tolist() for name, tensor in state["core"].items() if name != "total_norm"}
    columns = {name: column.nan_to_num(-1.0).tolist() for name, column in state["history"].items()}
    rule = {name: str(value) for name, value in state["rule"]["state"].items()}
    mirror = {name: str(value) for name, value in state["mirror"].items()}
    return {"core": core, "history": columns, "rule": rule, "mirror": mirror, "active": state["active"]} | {
        "steps": selector.steps,
        "drawn": str(state.get("drawn")),
    }


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


def broken(model: nn.Module, where: str, selector: FastSelector) -> list[torch.utils.hooks.RemovableHandle]:
    """Makes a gradient not finite in the next backward pass: that of an outer parameter, or one of whatever layers
    train.
    """
    hook = {"outer": lambda g: g * math.inf, "layers": lambda g: g + math.nan}[where]
    if where == "outer":
        return [model.head.weight.register_hook(hook)]
    return [model.blocks[selector.trained()[0]][1].weight.register_hook(hook)]


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    # Whose first step, if it is skipped, leaves a momentum that nobody wrote.
    "sgd fused": lambda p: torch.optim.SGD(p, lr=1e-1, momentum=0.9, fused=True),
}
SKIPS = {0: "outer", 1: "layers", 4: "layers", 9: "layers", 10: "outer", 11: "layers", 15: "outer"}


@pytest.mark.parametrize(("capture", "unscale"), [("backward", False), ("backward", True), ("step", True)])
@pytest.mark.parametrize(
    ("mode", "kind", "probe_every", "warmup", "interval", "lag"),
    [
        ("gate", "adamw", 0, 0, 1, 0),
        ("gate", "adamw fused", 0, 2, 3, 0),
        ("gate", "sgd fused", 0, 0, 1, 0),
        ("freeze", "adamw", 5, 0, 1, 0),
        ("freeze", "adamw fused", 4, 2, 2, 0),
        ("freeze", "sgd fused", 4, 1, 1, 2),
    ],
)
def test_a_skipped_step_never_was(mode, kind, probe_every, warmup, interval, lag, unscale, capture):
    """Beside a simulation that is never told of the skipped steps."""
    settings = {"mode": mode, "probe_every": probe_every, "warmup": warmup, "interval": interval, "lag": lag}
    model, twin = plain(), plain()

    make = OPTIMIZERS[kind]
    selector = FastSelector(model, capture=capture, **settings)
    optimizer = make(selector.trainable_parameters())
    selector.attach(optimizer)
    simulation = Simulation(
        twin,
        [list(block.parameters()) for block in twin.blocks],
        [*twin.embed.parameters(), *twin.head.parameters()],
        make_optimizer=make,
        **settings,
    )
    scaler = scaler_of()
    skipped = []
    for attempt in range(18):
        handles = broken(model, SKIPS[attempt], selector) if attempt in SKIPS else []
        scaler.scale(plain_loss(model, attempt)).backward()
        before, present = snapshot(selector), [p.grad is not None for p in model.parameters()]
        if unscale:
            scaler.unscale_(optimizer)
        weights = [p.detach().clone() for p in model.parameters()]
        selector.step(scaler)
        if attempt in SKIPS:
            assert snapshot(selector) == before, attempt
            assert not math.isfinite(float(selector.total_norm))
            assert [p.grad is not None for p in model.parameters()] == present
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        skipped.append(scaler.get_scale() < scale)
        optimizer.zero_grad()
        for handle in handles:
            handle.remove()
        if attempt in SKIPS:
            assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
        else:
            simulation.step(plain_loss(twin, attempt))
        assert set(selector.selected()) == simulation.selection, attempt
        assert selector.scores.nan_to_num(-1).tolist() == pytest.approx(
            [-1 if math.isnan(s) else s for s in simulation.scores], rel=1e-6
        )
        for (name, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
            assert torch.equal(parameter, other), (attempt, name)
    assert [attempt for attempt, was in enumerate(skipped) if was] == list(SKIPS)
    assert selector.steps == len(selector.history) == simulation.step_index == 18 - len(SKIPS)
    assert selector.frequency.tolist() == simulation.frequency
    assert selector.nonfinite.tolist() == [0] * 6
    selector.close()


@pytest.mark.parametrize("mode", ["observe", "gate", "freeze"])
@pytest.mark.parametrize("rule", ["random:k=2", "lisa:n=2;interval=3", "block-cyclic:interval=2"])
def test_skipped_steps_use_up_no_draw(rule, mode):
    def run(skips: dict[int, str]) -> list[list[int]]:
        model = plain()
        chosen = []
        with FastSelector(model, rule, mode=mode, interval=2, warmup=1) as selector:
            for attempt in range(12 + len(skips)):
                handles = broken(model, skips[attempt], selector) if attempt in skips else []
                plain_loss(model, attempt).backward()
                selector.step(1.0)
                for handle in handles:
                    handle.remove()
                model.zero_grad()
                if attempt not in skips:
                    chosen.append(
                        selector.selected() if mode != "freeze" else [*selector.selected(), selector.trained()]
                    )
        return chosen

    assert run({0: "outer", 1: "layers", 4: "outer", 5: "layers", 9: "layers"}) == run({})


def test_what_the_scaler_alone_has_found_skips_the_step():
    """The optimizer may hold parameters that the selector does not know."""
    model, other = plain(), nn.Parameter(torch.ones(3))
    selector = FastSelector(model, "topk:k=2", mode="gate")
    optimizer = torch.optim.SGD([*selector.trainable_parameters(), other], lr=0.1)
    selector.attach(optimizer)
    scaler = scaler_of()
    for attempt in range(4):
        scaler.scale(plain_loss(model, attempt) + (other * (math.inf if attempt in (0, 2) else 1.0)).sum()).backward()
        before = snapshot(selector)
        scaler.unscale_(optimizer)
        selector.step(scaler)
        assert (snapshot(selector) == before) == (attempt in (0, 2))
        assert math.isfinite(float(selector.total_norm))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert selector.steps == 2


@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_a_scaler_that_skips_one_of_two_optimizers(mode):
    """The step is skipped for the selection; the other optimizer moves what stands selected, and no more."""
    model = plain()
    selector = FastSelector(model, "topk:k=4", mode=mode, probe_every=1)
    first = torch.optim.SGD([p for block in model.blocks[:3] for p in block.parameters()], lr=0.1)
    rest = {id(p) for group in first.param_groups for p in group["params"]}
    second = torch.optim.SGD([p for p in model.parameters() if id(p) not in rest], lr=0.1)
    selector.attach(first, second)
    scaler = scaler_of()
    for attempt in range(3):
        handle = model.blocks[0][1].weight.register_hook(lambda g: g * math.inf) if attempt == 2 else None
        scaler.scale(plain_loss(model, attempt)).backward()
        standing = selector.selected()
        before = [block[1].weight.detach().clone() for block in model.blocks]
        selector.step(scaler)
        for optimizer in (first, second):
            scaler.step(optimizer)
        scaler.update()
        for optimizer in (first, second):
            optimizer.zero_grad()
        moved = [i for i, block in enumerate(model.blocks) if not torch.equal(block[1].weight, before[i])]
        if handle is None:
            assert moved == selector.selected()
        else:
            assert selector.selected() == standing
            assert moved == [i for i in standing if i > 2]
            assert moved


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
