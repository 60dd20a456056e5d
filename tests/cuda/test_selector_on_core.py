"""FastSelector over the device core. Without a GPU the core runs on the launchers' twins: hooks, state, gates, schedule
and history are those of a device, the kernels are not.
"""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector, LayerSelectError, Rule, Selection
from layerselect.core import device_step
from layerselect.core import step as core_module
from layerselect.core.multi_device import SeveralDevicesCore
from torch import nn

from tests.helpers.models import plain, plain_loss


@pytest.fixture(autouse=True)
def device_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: True)


STEPS = [1.0, 0.95, 0.9, 0.75, 0.6, 0.5]
BUDGETED = f'cost-aware:budget=0.8;base="topk:k=3";costs={STEPS}'


def train(selector: FastSelector, model: nn.Module, steps: int, fused: bool) -> list[list[int]]:
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2, fused=fused)
    selector.attach(optimizer)
    chosen = []
    for step in range(steps):
        plain_loss(model, step).backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
        chosen.append(selector.selected())
    return chosen


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "kept-and-restored"])
@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("mode", ["observe", "gate", "freeze"])
@pytest.mark.parametrize(
    "rule",
    [
        "variance",
        "topk:k=2",
        "fixed:layers=[1,4]",
        "random:k=2",
        "all",
        "lisa:interval=3",
        "cosine",
        "probe-once:steps=4",
        BUDGETED,
    ],
)
def test_training_is_that_of_the_host(rule, mode, lag, fused, monkeypatch):
    settings = {"mode": mode, "lag": lag, "probe_every": 5, "warmup": 2, "seed": 3}
    model = plain()
    selector = FastSelector(model, rule, **settings)
    assert selector._core.decides_on_device
    on_device = train(selector, model, 16, fused)

    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: False)
    twin = plain()
    expected = FastSelector(twin, rule, **settings)
    assert not expected._core.decides_on_device
    on_host = train(expected, twin, 16, fused)

    assert on_device == on_host
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(selector.scores, expected.scores, rtol=1e-6, atol=0, equal_nan=True)
    of_maps, others = selector.scores_by_map(), expected.scores_by_map()
    torch.testing.assert_close(of_maps, others, rtol=1e-6, atol=0, equal_nan=True)
    assert selector.frequency.tolist() == expected.frequency.tolist()
    for name in ("kept_share", "step_cost"):
        torch.testing.assert_close(getattr(selector, name), getattr(expected, name), rtol=1e-6, atol=0, equal_nan=True)
    rows, others = selector.history.arrays(), expected.history.arrays()
    for name in ("step", "mask", "trained"):
        assert (rows[name] == others[name]).all(), name


@pytest.mark.parametrize(
    "base", ["variance", "topk:k=4", "fraction:p=0.5", "threshold:gamma=0.1", "all", "fixed:layers=[0,4]", "upper"]
)
@pytest.mark.parametrize("budget", [0.55, 0.8])
def test_a_budget_over_any_base(base, budget, monkeypatch):
    """Upper chooses without scores, the same in every step: to the device it is a fixed set."""
    settings = {"mode": "gate", "warmup": 1, "interval": 2}
    rule = f'cost-aware:budget={budget};base="{base}";costs={STEPS}'
    model, twin = plain(), plain()
    selector = FastSelector(model, rule, **settings)
    assert selector._core.decides_on_device
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: False)
    expected = FastSelector(twin, rule, **settings)
    assert train(selector, model, 7, fused=True) == train(expected, twin, 7, fused=True)
    assert selector.kept_share == expected.kept_share and selector.step_cost == expected.step_cost
    assert (selector.history.arrays()["mask"] == expected.history.arrays()["mask"]).all()


def test_a_base_that_draws_at_random_is_left_to_pytorch():
    with FastSelector(plain(), f'cost-aware:base="random:k=2";costs={STEPS}', mode="gate") as selector:
        assert not selector._core.decides_on_device


@pytest.mark.parametrize("score", ["l2", "rms", "sqrt_sum"])
@pytest.mark.parametrize("capture", ["backward", "step"])
@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_layers_on_several_devices(mode, capture, score, monkeypatch):
    """One device divided in three: blocks 0 and 1 with the embedding, blocks 2 to 4, block 5 with the head."""
    settings = {"mode": mode, "capture": capture, "score": score, "probe_every": 5, "warmup": 2, "lag": 1}
    model, twin = plain(), plain()
    places = {id(p): 0 if n < 2 else 1 if n < 5 else 2 for n, b in enumerate(model.blocks) for p in b.parameters()}
    places |= {id(p): 2 for p in model.head.parameters()}
    rule = f'cost-aware:budget=1.0;base="topk:k=3";costs={STEPS}' if score == "l2" else "topk:k=3"
    with monkeypatch.context() as patch:
        patch.setattr(device_step, "_device_of", lambda parameter: places.get(id(parameter), 0))
        selector = FastSelector(model, rule, **settings)
    assert isinstance(selector._core._core, SeveralDevicesCore)
    expected = FastSelector(twin, rule, **settings)
    assert train(selector, model, 14, fused=True) == train(expected, twin, 14, fused=True)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(selector.scores, expected.scores)
    of_maps, others = selector.scores_by_map(), expected.scores_by_map()
    torch.testing.assert_close(of_maps, others, rtol=1e-6, atol=0, equal_nan=True)
    assert not of_maps["1"].isnan()[selector.history.arrays()["trained"][-1]].any()
    assert torch.equal(selector.frequency, expected.frequency)
    torch.testing.assert_close(selector.total_norm, expected.total_norm, rtol=1e-12, atol=0)
    assert (selector.history.arrays()["mask"] == expected.history.arrays()["mask"]).all()
    # Not finite on one device: left out, counted, and the score held.
    before = selector.scores.clone()
    handle = model.blocks[5][1].weight.register_hook(lambda g: g * float("inf")) if 5 in selector.trained() else None
    plain_loss(model).backward()
    selector.step()
    if handle is not None:
        assert 5 not in selector.selected()
        assert selector.nonfinite.tolist() == [0, 0, 0, 0, 0, 1]
        assert selector.scores[5] == before[5]


def test_history_outlasts_the_ring():
    model = plain(layers=3)
    with FastSelector(model, mode="observe") as selector:
        plain_loss(model).backward()
        for _ in range(700):
            selector.step()
        assert len(selector.history) == 700
        for _ in range(500):
            selector.step()
        assert selector.history.arrays()["step"].tolist() == list(range(1200))


@pytest.mark.parametrize("rule", ["fixed:layers=[1,2]", "random:k=2", "all"])
def test_a_choice_without_scores_outlives_a_gradient_that_is_not_finite(rule):
    model = plain()
    with FastSelector(model, rule, mode="observe", interval=3) as selector:
        chosen = []
        for step in range(3):
            handles = [b[1].weight.register_hook(lambda g: g * float("nan")) for b in model.blocks] if step == 0 else []
            plain_loss(model).backward()
            selector.step()
            for handle in handles:
                handle.remove()
            model.zero_grad()
            chosen.append(selector.selected())
        assert chosen[0] == [] and chosen[1] == chosen[2] != []
        assert selector.frequency.sum() == 0


def test_state_moves_between_host_and_device(monkeypatch):
    model = plain()
    selector = FastSelector(model, mode="gate")
    train(selector, model, 5, fused=True)
    state = selector.state_dict()
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: False)
    other = FastSelector(plain(), mode="gate")
    other.load_state_dict(state)
    assert torch.equal(other.frequency, selector.frequency)
    assert torch.equal(other.scores, selector.scores)
    assert len(other.history) == 5


def test_a_rule_that_the_kernels_do_not_know_runs_in_pytorch():
    class AboveMean(Rule):
        name = "above-mean"

        def select(self, scores, status):
            return Selection(scores >= scores.mean(), scores.mean())

        def config(self):
            return {}

    model = plain()
    with FastSelector(model, AboveMean(), mode="observe") as selector:
        assert not selector._core.decides_on_device
        plain_loss(model).backward()
        selector.step()
        assert selector.selected() == [i for i, s in enumerate(selector.scores.tolist()) if s >= selector.scores.mean()]
    with FastSelector(model, "variance", mode="observe") as selector:
        selector.rule = AboveMean()
        with pytest.raises(LayerSelectError, match="kernels do not know rule 'above-mean'"):
            selector.step()
