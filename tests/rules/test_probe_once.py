"""ProbeOnce: the mean scores of a few steps decide, and then nothing does."""

from __future__ import annotations

import math

import pytest
import torch
from layerselect import FastSelector, LayerSelectError, ProbeOnce, TopK, make_rule
from layerselect.core import step as core_module
from layerselect.rules import EXCLUDED, MEASURED, ModelView

from tests.helpers.models import plain, plain_loss
from tests.helpers.simulation import variance_split
from tests.rules.choosing import bound, choose


def scores_of(steps: int, layers: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(steps, layers, generator=torch.Generator().manual_seed(seed))


def feed(rule, rows: torch.Tensor) -> None:
    for row in rows:
        rule.after_step(row, torch.full((len(row),), MEASURED, dtype=torch.uint8))


@pytest.mark.parametrize("layers", [2, 3, 6, 12, 31, 80])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_upper_half_by_mean_score(layers, steps):
    rows = scores_of(steps + 4, layers)
    rule = bound("probe-once", layers, steps=steps)
    for step in range(steps):
        assert choose(rule, [math.nan] * layers) == set(range(layers))
        feed(rule, rows[step : step + 1])
    means = rows[:steps].double().mean(0).tolist()
    half = math.floor(0.5 * layers + 0.5)
    expected = set(sorted(range(layers), key=lambda i: means[i])[layers - half :])
    for step in range(steps, steps + 4):  # later scores change nothing
        assert choose(rule, [math.nan] * layers) == expected
        feed(rule, 1 - rows[step : step + 1])


@pytest.mark.parametrize("layers", [2, 9, 30])
def test_another_base(layers):
    rows = scores_of(3, layers, seed=4)
    rule = bound("probe-once", layers, steps=3, base="variance")
    feed(rule, rows)
    means = rows.double().mean(0).float().tolist()
    assert choose(rule, [math.nan] * layers) == variance_split(means)


def test_steps_that_are_not_finite_do_not_count():
    rule = bound("probe-once", 3, steps=2, base=TopK(1))
    rule.after_step(torch.tensor([9.0, 1.0, 2.0]), torch.tensor([EXCLUDED, MEASURED, MEASURED], dtype=torch.uint8))
    rule.after_step(torch.tensor([3.0, 1.0, 5.0]), torch.tensor([MEASURED, MEASURED, MEASURED], dtype=torch.uint8))
    # Means 3, 1, 3.5; with the first layer's 9 it would have led.
    assert choose(rule, [math.nan] * 3) == {2}
    # A layer that was never finite ranks first: it must get a chance.
    rule = bound("probe-once", 3, steps=1, base=TopK(1))
    rule.after_step(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([EXCLUDED, MEASURED, MEASURED], dtype=torch.uint8))
    assert choose(rule, [math.nan] * 3) == {0}


@pytest.mark.parametrize("fed", [0, 2, 3, 5])
def test_resumes_while_probing_and_after(fed):
    rows = scores_of(8, 10, seed=2)
    rule = bound("probe-once", 10, steps=3)
    feed(rule, rows[:fed])
    choose(rule, [math.nan] * 10)
    other = bound("probe-once", 10, steps=3)
    other.load_state_dict(rule.state_dict())
    for step in range(fed, 8):
        for each in (rule, other):
            feed(each, rows[step : step + 1])
        assert choose(rule, [math.nan] * 10) == choose(other, [math.nan] * 10)
    assert len(choose(rule, [math.nan] * 10)) == 5


@pytest.mark.parametrize("mode", ["observe", "gate", "freeze"])
@pytest.mark.parametrize("warmup", [0, 2])
def test_in_training(mode, warmup):
    model = plain()
    with FastSelector(model, ProbeOnce(3, base="topk:k=2"), mode=mode, probe_every=4, warmup=warmup) as selector:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        selector.attach(optimizer)
        for step in range(12):
            plain_loss(model, step).backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
        rows = selector.history.arrays()
    means = rows["scores"][warmup : warmup + 3].astype("float64").mean(axis=0)
    chosen = set(means.argsort()[-2:].tolist())
    assert rows["mask"][: warmup + 3].all()
    assert {tuple(row.nonzero()[0]) for row in rows["mask"][warmup + 3 :]} == {tuple(sorted(chosen))}
    # Fixed, so nothing needs to be measured again: no probes.
    if mode == "freeze":
        assert (rows["trained"] == rows["mask"]).all()


def test_on_a_device_the_host_reads_a_step_late(monkeypatch):
    """The device core, run by the twins of its launchers; the rule is told that its tensors are elsewhere."""
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: True)

    class Late(ProbeOnce):
        def prepare(self, view: ModelView) -> None:
            super().prepare(view)
            self._mirror = self._new_mirror(1, torch.device("cpu"))

    for skips in (set(), {0, 1, 2, 4}):
        # Of a step that is skipped the host does not hear; the device does not count it.
        model = plain()
        with FastSelector(model, Late(3, base="topk:k=2"), mode="gate", lag=1) as selector:
            assert selector._core.decides_on_device
            for step in range(8 + len(skips)):
                spoiled = [model.head.weight.register_hook(lambda g: g * math.inf)] if step in skips else []
                plain_loss(model, step).backward()
                for handle in spoiled:
                    handle.remove()
                selector.step(1.0)
                model.zero_grad()
            rows = selector.history.arrays()
        means = rows["scores"][:3].astype("float64").mean(axis=0)
        assert len(rows["mask"]) == 8
        assert rows["mask"][:4].all()
        assert [set(row.nonzero()[0]) for row in rows["mask"][4:]] == [set(means.argsort()[-2:])] * 4


def test_bad_options():
    with pytest.raises(LayerSelectError, match="steps=0 is not a whole number"):
        make_rule("probe-once:steps=0")
    with pytest.raises(LayerSelectError, match="base='random' looks at no scores"):
        make_rule('probe-once:base="random"')
    with pytest.raises(LayerSelectError, match="no rule 'best'"):
        make_rule('probe-once:base="best"')
    with pytest.raises(LayerSelectError, match="not one of rule 'probe-once'"):
        bound("probe-once", 3).load_state_dict({"seen": 1})
