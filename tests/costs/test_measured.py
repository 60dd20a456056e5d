"""Measured costs: of blocks that move a clock of ours, and of blocks that really differ in size."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import pytest
import torch
from layerselect import CostAware, FastSelector, LayerSelectError
from layerselect.core import step as core_module
from layerselect.costs.counted import LayerCosts
from layerselect.costs.measured import CostMeter
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.costs.test_counted import view_of
from tests.helpers.models import plain, plain_loss


class Clock:
    now = 0.0


class Ticking(torch.autograd.Function):
    """Passes its input on; the clock moves when the gradient comes back."""

    @staticmethod
    def forward(ctx, x: Tensor, clock: Clock, seconds: float) -> Tensor:
        ctx.clock, ctx.seconds = clock, seconds
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        ctx.clock.now += ctx.seconds
        return gradient, None, None


class Block(nn.Module):
    def __init__(self, clock: Clock, forward: float, backward: float) -> None:
        super().__init__()
        self.weight, self.frozen = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(6), requires_grad=False)
        self.clock, self.seconds = clock, (forward, backward)

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += self.seconds[0]
        return Ticking.apply(x * self.weight, self.clock, self.seconds[1])


FORWARD, BACKWARD = [1.0, 2.0, 4.0], [10.0, 30.0, 20.0]


class Clocked(nn.Module):
    """Three blocks between something that takes 0.5 in front, 7 behind and 5 on the way back."""

    def __init__(self, embeds: bool = False) -> None:
        super().__init__()
        self.clock = Clock()
        self.embed = nn.Parameter(torch.ones(3), requires_grad=embeds)
        self.blocks = nn.ModuleList(Block(self.clock, f, b) for f, b in zip(FORWARD, BACKWARD, strict=True))
        self.reentrant: bool | None = None  # None: no checkpointing
        self.order = [0, 1, 2]

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += 0.5
        x = Ticking.apply(x * self.embed, self.clock, 3.0)
        if self.reentrant:
            x = x.detach().requires_grad_()
        for i in self.order:
            block = self.blocks[i]
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
        self.clock.now += 7.0
        return Ticking.apply(x, self.clock, 5.0).sum()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Clocked:
    model = Clocked()
    monkeypatch.setattr("layerselect.costs.measured.time.perf_counter", lambda: model.clock.now)
    return model


def measure(model: Clocked, passes: int = 6, **kwargs) -> tuple[CostMeter, list[LayerCosts]]:
    found: list[LayerCosts] = []
    counted = LayerCosts((9.0,) * 3, (9.0,) * 3, (3.0,) * 3, rest=1.0, **kwargs)
    meter = CostMeter(view_of(model), counted, found.append)
    for _ in range(passes):
        model(torch.ones(3)).backward()
    return meter, found


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def split(backward: list[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """In the counted ratio of 9 to 3."""
    return tuple(0.75 * b for b in backward), tuple(0.25 * b for b in backward)


def assert_costs(found: list[LayerCosts], forward, backward, rest: float) -> None:
    assert len(found) == 1
    through, own = split(backward)
    assert found[0].forward == pytest.approx(forward)
    assert found[0].input_gradient == pytest.approx(through)
    assert found[0].weight_gradient == pytest.approx(own)
    assert found[0].rest == pytest.approx(rest)


def test_each_block_is_timed_to_the_tick(model):
    _, found = measure(model, passes=6)  # one to warm up, three, and two more until nobody would wait
    assert found == [] and hooks_of(model) == 7
    measure_on = model(torch.ones(3))
    assert_costs(found, FORWARD, BACKWARD, 0.5 + 7 + 5)
    assert found[0].crossed_from is None and hooks_of(model) == 0
    measure_on.backward()
    model(torch.ones(3)).backward()
    assert len(found) == 1


def test_an_embedding_that_trains_is_no_part_of_the_lowest_layer(model):
    model.embed.requires_grad_(True)
    _, found = measure(model, passes=7, crossed_from=0)
    assert_costs(found, FORWARD, BACKWARD, 0.5 + 7 + 5 + 3)
    assert found[0].crossed_from == 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputed_block_takes_its_forward_pass_once_more(model, reentrant):
    model.reentrant = reentrant
    _, found = measure(model, passes=7)
    assert_costs(found, FORWARD, [f + b for f, b in zip(FORWARD, BACKWARD, strict=True)], 0.5 + 7 + 5)


def test_the_first_pass_and_outliers_do_not_count(model):
    found: list[LayerCosts] = []
    CostMeter(view_of(model), LayerCosts((9.0,) * 3, (9.0,) * 3, (3.0,) * 3), found.append)
    for factor in (50.0, 1.0, 8.0, 1.0, 1.0, 1.0, 1.0):
        for block, f, b in zip(model.blocks, FORWARD, BACKWARD, strict=True):
            block.seconds = (factor * f, factor * b)
        model(torch.ones(3)).backward()
    assert_costs(found, FORWARD, BACKWARD, 12.5)


def test_only_passes_in_which_all_layers_train(model):
    """Evaluation moves nothing on; a frozen layer makes a pass another one."""
    found: list[LayerCosts] = []
    CostMeter(view_of(model), LayerCosts((9.0,) * 3, (9.0,) * 3, (3.0,) * 3), found.append)
    for _ in range(4):
        for seconds in (FORWARD, [100.0] * 3):  # the second time with layer 0 frozen, and slow
            model.blocks[0].weight.requires_grad_(seconds is FORWARD)
            for block, f, b in zip(model.blocks, seconds, BACKWARD, strict=True):
                block.seconds = (f, b)
            model(torch.ones(3)).backward()
        with torch.no_grad():
            model.eval()(torch.ones(3))
            model.train()
    model.blocks[0].weight.requires_grad_(True)
    for _ in range(2):
        assert found == []
        model(torch.ones(3)).backward()
    assert_costs(found, FORWARD, BACKWARD, 12.5)


def test_blocks_that_run_twice_cannot_be_measured(model, caplog):
    model.order = [0, 1, 2, 1]
    with caplog.at_level(logging.WARNING):
        _, found = measure(model, passes=40)
    assert found == [] and hooks_of(model) == 0
    assert caplog.text.count("cannot be measured") == 1


def test_closed_before_its_time(model):
    meter, found = measure(model, passes=3)
    loss = model(torch.ones(3))
    meter.close()
    meter.close()
    loss.backward()
    for _ in range(6):
        model(torch.ones(3)).backward()
    assert found == [] and hooks_of(model) == 0


def test_layers_that_no_clock_of_ours_measures():
    view = view_of(plain())
    parameters = [[(name, nn.Parameter(p.to("meta"))) for name, p in layer] for layer in view.parameters]
    with pytest.raises(LayerSelectError, match="on one CUDA device, not on meta: use costs='counted'"):
        CostMeter(replace(view, parameters=parameters, device=torch.device("meta")), None, print)


class Uneven(nn.Module):
    """Blocks of 16 -> n -> 16 for very different n."""

    def __init__(self) -> None:
        super().__init__()
        widths = (4096, 8, 8192, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, n, bias=False), nn.Linear(n, 16, bias=False)) for n in widths
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x.square().mean()


def test_measured_costs_are_in_the_order_of_the_counted_ones(monkeypatch):
    # The processor's time of this process: by the host's clock a small block that is interrupted takes long.
    monkeypatch.setattr("layerselect.costs.measured.time.perf_counter", time.process_time)
    model = Uneven()
    with FastSelector(model, CostAware(0.99, "all", "measured"), mode="observe") as selector:
        counted = selector.rule.layer_costs
        for _ in range(7):
            model(torch.randn(512, 16)).backward()
            selector.step()
        measured = selector.rule.layer_costs
        assert measured != counted and hooks_of(model) == 0
    for costs in (counted, measured):
        for column in (costs.forward, costs.input_gradient, costs.weight_gradient):
            assert min(column[0], column[2]) > max(column[1], column[3])


#: The last layer alone takes 15.1 of 20.6, two layers 16.2, which is over 0.75.
OTHER = LayerCosts((1.0,) * 6, (1.0, 1.0, 1.0, 1.0, 1.0, 9.0), (0.1,) * 6)


@pytest.mark.parametrize("on_device", [False, True])
def test_measured_costs_stand_and_are_saved(on_device, monkeypatch, native):
    """They change what is selected from the step on in which they come, on the host and on the device core."""
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: on_device)

    def steps(selector: FastSelector, model, count: int) -> list[tuple]:
        chosen = []
        for seed in range(count):
            plain_loss(model, seed).backward()
            selector.step()
            model.zero_grad()
            chosen.append((selector.selected(), selector.kept_share.item(), selector.step_cost.item()))
        return chosen

    def build() -> tuple[FastSelector, nn.Module]:
        model = plain()
        model.embed.requires_grad_(False)
        rule = CostAware(0.75, "all", "measured")
        return FastSelector(model, rule, mode="gate", backend="native"), model

    selector, model = build()
    assert selector._core.decides_on_device == on_device
    before = steps(selector, model, 1)[0]
    assert selector.rule.state_dict() == {"base": {}}
    selector.rule._take_measured(OTHER)
    after = steps(selector, model, 2)
    assert len(before[0]) > 1
    assert [(chosen, cost) for chosen, _, cost in after] == [([5], pytest.approx(15.1 / 20.6, rel=1e-6))] * 2
    state = selector.state_dict()
    selector.close()

    selector, model = build()
    selector.load_state_dict(state)
    assert selector.rule.layer_costs == OTHER and hooks_of(model) == 0
    assert steps(selector, model, 2) == after
    selector.close()


def test_measured_costs_that_fit_no_layer_raise_the_budget(caplog):
    model = plain()
    model.embed.requires_grad_(False)
    with FastSelector(model, CostAware(0.6, "all", "measured"), mode="observe") as selector:
        with caplog.at_level(logging.WARNING):
            selector.rule._take_measured(LayerCosts((1.0,) * 6, (0.0,) * 6, (0.1,) * 6))
        assert "0.924 of the step" in caplog.text
        assert selector.rule.limit == pytest.approx(6.1 / 6.6)
        plain_loss(model).backward()
        selector.step()
        assert len(selector.selected()) == 1
