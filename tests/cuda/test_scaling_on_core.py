"""Skipped steps where the device decides: it leaves them out at once, the host learns of them ``lag`` steps later.

Without a GPU the device core runs on the launchers' twins, see test_selector_on_core.py.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from layerselect import FastSelector
from layerselect.core import step as core_module
from torch import nn
from torch.amp import GradScaler

from tests.cuda.scaled_runs import ATTEMPTS, LAYERS, SKIPS, assert_same_run, spoil, train
from tests.helpers.models import plain, plain_loss


@pytest.fixture(autouse=True)
def device_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: True)


@pytest.mark.parametrize(
    ("mode", "rule", "kind", "unscale"),
    [
        ("observe", "variance", "adamw fused", False),
        ("gate", "variance", "adamw fused", True),
        ("gate", "topk:k=2", "adamw", False),
        ("gate", "fixed:layers=[1,4]", "sgd fused", False),
        ("freeze", "variance", "sgd fused", False),
        ("freeze", "topk:k=2", "adamw", True),
        ("freeze", "random:k=2", "adamw fused", False),
    ],
)
@pytest.mark.parametrize("interval", [1, 3])
def test_without_lag_the_run_is_that_of_the_host(mode, rule, kind, unscale, interval, monkeypatch):
    settings = {"mode": mode, "lag": 0, "probe_every": 4, "warmup": 1, "interval": interval, "seed": 3}
    model = plain()
    selector = FastSelector(model, rule, **settings)
    assert selector._core.decides_on_device
    on_device = train(selector, model, SKIPS, kind, unscale)

    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: False)
    twin = plain()
    expected = FastSelector(twin, rule, **settings)
    on_host = train(expected, twin, SKIPS, kind, unscale)
    assert [row["selected"] for row in on_device] == [row["selected"] for row in on_host]
    if mode == "freeze":  # in the other modes the host of a device counts calls
        assert on_device == on_host
    assert_same_run(selector, model, expected, twin)


class OnDevice:
    """What a run with a device must be, written from the definition of the host's belief: the device's count of ``lag``
    calls ago, and no skip since. Probes and draws follow the belief, selections the device's own count."""

    def __init__(self, model: nn.Module, lag: int, probe_every: int, warmup: int, interval: int, draws: list[set[int]]):
        self.model, self.lag, self.draws = model, lag, draws
        self.probe_every, self.warmup, self.interval = probe_every, warmup, interval
        everything = set(range(LAYERS))
        self.counts, self.wanted = [0], [everything]  # after so many calls
        self.decided, self.scores, self.frequency = everything, [math.nan] * LAYERS, [0] * LAYERS
        self.draw: tuple[int, set[int]] | None = None
        self.used = 0
        outer = [*model.embed.parameters(), *model.head.parameters()]
        self.optimizers = [torch.optim.AdamW(p, lr=1e-2, fused=True) for p in (*map(list, self.layers()), outer)]

    def layers(self) -> list[list[nn.Parameter]]:
        return [list(block.parameters()) for block in self.model.blocks]

    def selects(self, step: int) -> bool:
        return step >= self.warmup and (step - self.warmup) % self.interval == 0

    @property
    def belief(self) -> int:
        calls = len(self.counts) - 1
        return calls if calls <= self.lag else self.counts[calls - self.lag] + self.lag

    def trained(self) -> set[int]:
        step, calls = self.belief, len(self.counts) - 1
        if self.draws:
            if self.selects(step) and (self.draw is None or self.draw[0] != step):
                self.draw = step, self.draws[self.used]
                self.used += 1
            return set(range(LAYERS)) if self.draw is None else self.draw[1]
        probe = self.probe_every and (step - self.warmup) % self.probe_every == 0
        if step <= self.warmup or probe or calls <= self.lag:
            return set(range(LAYERS))
        return self.wanted[calls - self.lag]

    def call(self, loss: torch.Tensor, trained: set[int], skipped: bool) -> None:
        loss.backward()
        if not skipped:
            for index in trained:
                squares = [float((p.grad.double() ** 2).sum()) for p in self.layers()[index]]
                self.scores[index] = math.sqrt(math.fsum(squares))
            if self.selects(self.counts[-1]):
                best = sorted(range(LAYERS), key=lambda i: self.scores[i])[-2:]
                self.decided = self.draw[1] if self.draws else set(best)
                for index in self.decided:
                    self.frequency[index] += 1
            for index in (*(self.decided & trained), LAYERS):
                self.optimizers[index].step()
        self.model.zero_grad()
        self.counts.append(self.counts[-1] + (not skipped))
        self.wanted.append(self.decided)


@pytest.mark.parametrize("rule", ["topk:k=2", "random:k=2"])
@pytest.mark.parametrize("lag", [1, 2])
@pytest.mark.parametrize(("probe_every", "warmup", "interval"), [(4, 1, 1), (3, 2, 3), (0, 0, 4)])
def test_the_host_learns_of_skipped_steps_as_late_as_lag_says(rule, lag, probe_every, warmup, interval):
    model, twin = plain(), plain()
    settings = {"probe_every": probe_every, "warmup": warmup, "interval": interval, "lag": lag}
    selector = FastSelector(model, rule, mode="freeze", seed=3, **settings)
    rows = train(selector, model, SKIPS)
    generator = torch.Generator().manual_seed(3)
    draws = [set(torch.randperm(LAYERS, generator=generator)[:2].tolist()) for _ in range(ATTEMPTS)]
    simulation = OnDevice(twin, **settings, draws=draws if rule.startswith("random") else [])
    for attempt, row in enumerate(rows):
        trained = simulation.trained()
        assert set(row["trained"]) == trained, attempt
        simulation.call(plain_loss(twin, attempt), trained, attempt in SKIPS)
        assert set(row["selected"]) == simulation.decided, attempt
        assert row["steps"] == simulation.belief, attempt
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    assert selector.frequency.tolist() == simulation.frequency
    assert len(selector.history) == ATTEMPTS - len(SKIPS) == simulation.counts[-1]
    known = [s for s in selector.scores.tolist() if s == s]
    if not simulation.draws:
        assert known == pytest.approx(simulation.scores, rel=1e-6)


@pytest.mark.parametrize("mode", ["observe", "gate"])
@pytest.mark.parametrize(("warmup", "interval"), [(0, 1), (2, 3), (0, 4)])
def test_a_device_takes_the_latest_draw_when_it_selects(mode, warmup, interval):
    """The host draws in the calls that would select if no step were skipped; the device takes each draw at most
    once.
    """
    model = plain()
    selector = FastSelector(model, "random:k=2", mode=mode, warmup=warmup, interval=interval, seed=3)
    rows = train(selector, model, SKIPS)
    generator = torch.Generator().manual_seed(3)
    count, drawn, decided, taken = 0, None, set(range(LAYERS)), []
    for call in range(ATTEMPTS):
        if call >= warmup and (call - warmup) % interval == 0:
            drawn = call, set(torch.randperm(LAYERS, generator=generator)[:2].tolist())
        if call not in SKIPS:
            if count >= warmup and (count - warmup) % interval == 0:
                decided = drawn[1]
                taken.append(drawn[0])
            count += 1
        assert set(rows[call]["selected"]) == decided, call
    assert len(taken) == len(set(taken)) == int(selector.frequency.sum()) / 2
    assert selector.steps == ATTEMPTS  # calls; the device's own count is in the state
    assert int(selector.state_dict()["core"]["step"]) == ATTEMPTS - len(SKIPS)


def test_a_rule_that_draws_from_now_on_leaves_the_selection_until_it_is_due():
    """The device may be behind, and select before the host has drawn: its own selection stands then."""
    model = plain()
    with FastSelector(model, "topk:k=1", mode="observe", interval=4, seed=3) as selector:
        chosen = []
        for attempt in range(9):
            if attempt == 3:
                selector.rule = "random:k=3"
            handles = spoil(model, attempt, selector.trained()) if attempt in (1, 2) else []
            plain_loss(model, attempt).backward()
            selector.step(1.0)
            model.zero_grad()
            for handle in handles:
                handle.remove()
            chosen.append(selector.selected())
        # Attempts 1 and 2 are skipped, so the device selects in attempts 0 and 6; the host draws for attempts 4 and 8.
        assert len(chosen[0]) == 1 and chosen[:6] == chosen[:1] * 6
        assert len(chosen[6]) == 3


def test_a_run_with_skips_continues_bit_for_bit():
    def start(model):
        selector = FastSelector(model, "random:k=2", mode="freeze", lag=2, interval=2, seed=3)
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2, fused=True)
        selector.attach(optimizer)
        return selector, optimizer

    def steps(model, selector, optimizer, scaler, numbers):
        seen = []
        for attempt in numbers:
            handles = spoil(model, attempt, selector.trained()) if attempt in SKIPS else []
            scaler.scale(plain_loss(model, attempt)).backward()
            selector.step(scaler)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            for handle in handles:
                handle.remove()
            seen.append((selector.selected(), selector.trained(), selector.steps))
        return seen

    model = plain()
    whole, scaler = start(model), GradScaler("cpu", init_scale=2.0**10)
    steps(model, *whole, scaler, range(11))  # the last three of them skipped
    saved = whole[0].state_dict(), copy.deepcopy(model.state_dict()), copy.deepcopy(whole[1].state_dict())
    saved_scaler = scaler.state_dict()
    expected = steps(model, *whole, scaler, range(11, ATTEMPTS))

    resumed = plain(seed=5)
    other, fresh = start(resumed), GradScaler("cpu")
    resumed.load_state_dict(saved[1])
    other[0].load_state_dict(saved[0])
    other[1].load_state_dict(saved[2])
    fresh.load_state_dict(saved_scaler)
    assert steps(resumed, *other, fresh, range(11, ATTEMPTS)) == expected
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
