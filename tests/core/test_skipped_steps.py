"""Steps that a gradient scaler skips: they leave no trace."""

from __future__ import annotations

import math

import pytest
import torch
from layerselect import FastSelector
from torch import nn

from tests.core.skipping import OPTIMIZERS, SKIPS, broken, scaler_of
from tests.helpers.models import plain, plain_loss
from tests.helpers.simulation import Simulation


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
