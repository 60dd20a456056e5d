"""One moment of measurement: both captures give the same scores and masks, bit for bit, of the gradient as the backward
pass left it, whatever happens to it afterwards.
"""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from layerselect import FastSelector
from layerselect.core import step as core_module
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LAYERS, WIDTH, STEPS = 5, 8, 7


class Net(nn.Module):
    """Residual blocks, which may be checkpointed, left out, or run twice, between an input and an output."""

    def __init__(self, outer_trains: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)) for _ in range(LAYERS)
        )
        self.leave = nn.Linear(WIDTH, 3)
        for module in (self.enter, self.leave):
            module.requires_grad_(outer_trains)
        self.left_out: tuple[int, ...] = ()
        self.reentrant: bool | None = None
        self.order = list(range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).clone()
        if not x.requires_grad:
            x.requires_grad_()
        for index in self.order:
            block = self.blocks[index]
            if index not in self.left_out:
                x = x + (block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant))
        return self.leave(x).square().mean()


def batch(seed: int) -> Tensor:
    return torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(seed))


Optimizer = torch.optim.Optimizer
Program = Callable[[Net, FastSelector, Optimizer], Iterator[list[float]]]
#: What a program says of a step: the norms that its layers' gradients had when the backward pass ended; NaN: none was
#: there.


def norms(model: Net) -> list[float]:
    found = []
    for index, block in enumerate(model.blocks):
        squares = [float(p.grad.double().square().sum()) for p in block.parameters() if p.grad is not None]
        found.append(math.nan if index in model.left_out or not squares else math.sqrt(math.fsum(squares)))
    return found


def clip(model: Net) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)


def finish(model: Net, selector: FastSelector, optimizer: Optimizer, set_to_none: bool = True) -> None:
    selector.step()
    optimizer.step()
    optimizer.zero_grad(set_to_none)


def clipped(model, selector, optimizer):
    for step in range(STEPS):
        model(batch(step)).backward()
        yield norms(model)
        clip(model)
        finish(model, selector, optimizer)


def accumulated(model, selector, optimizer):
    for step in range(STEPS):
        for micro in range(3):
            (model(batch(10 * step + micro)) / 3).backward()
        yield norms(model)
        clip(model)
        finish(model, selector, optimizer)


def two_passes_through_one_graph(model, selector, optimizer):
    for step in range(STEPS):
        loss = model(batch(step))
        loss.backward(retain_graph=True)
        loss.backward()
        yield norms(model)
        clip(model)
        finish(model, selector, optimizer)


def leaving_out(set_to_none: bool, left_out: dict[int, tuple[int, ...]]) -> Program:
    def program(model, selector, optimizer):
        for step in range(STEPS):
            model.left_out = left_out.get(step, ())
            model(batch(step)).backward()
            yield norms(model)
            clip(model)
            finish(model, selector, optimizer, set_to_none)

    return program


def one_parameter_left_out(model, selector, optimizer):
    linear = model.blocks[2][0]
    for step in range(STEPS):
        bias = linear.bias if step % 2 else linear.bias.detach()
        linear.forward = lambda x, bias=bias: nn.functional.linear(x, linear.weight, bias)
        model(batch(step)).backward()
        yield norms(model)
        clip(model)
        finish(model, selector, optimizer, set_to_none=step % 3 == 0)


def checkpointed(reentrant: bool) -> Program:
    def program(model, selector, optimizer):
        model.reentrant = reentrant
        yield from clipped(model, selector, optimizer)

    return program


def a_block_run_twice(model, selector, optimizer):
    model.order = [0, 1, 2, 3, 1, 4]
    model.reentrant = True
    yield from clipped(model, selector, optimizer)


def broken_off(model, selector, optimizer):
    """The pass ends in an exception; the one after it adds to what is there."""

    def refuse(_: Tensor) -> None:
        raise RuntimeError("stop here")

    for step in range(STEPS):
        handle = model.blocks[1][2].weight.register_hook(refuse)
        with pytest.raises(RuntimeError, match="stop here"):
            model(batch(step)).backward()
        handle.remove()
        model(batch(step)).backward()
        yield norms(model)
        clip(model)
        finish(model, selector, optimizer)


def unscaled_and_clipped(model, selector, optimizer):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(STEPS):
        model.left_out = (1,) if step in (0, 4) else ()
        scaler.scale(model(batch(step))).backward()
        yield [n / 2**10 for n in norms(model)]
        scaler.unscale_(optimizer)
        clip(model)
        selector.step(scaler)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


PROGRAMS: dict[str, Program] = {
    "clipped": clipped,
    "accumulated": accumulated,
    "two passes": two_passes_through_one_graph,
    "left out at first": leaving_out(True, {0: (2,), 1: (2, 4), 5: (0,)}),
    "left out at first, zeroed": leaving_out(False, {0: (2,), 1: (2, 4), 5: (0,)}),
    "left out later, zeroed": leaving_out(False, {2: (2,), 3: (2,), 5: (0, 1, 2, 3, 4)}),
    "one parameter": one_parameter_left_out,
    "reentrant": checkpointed(True),
    "not reentrant": checkpointed(False),
    "twice": a_block_run_twice,
    "broken off": broken_off,
    "unscaled": unscaled_and_clipped,
}


def run(program: Program, *, capture: str, backend: str = "native", outer_trains: bool = True, **options):
    """Histories of a run, and what the scores had to be."""
    model = Net(outer_trains)
    with FastSelector(model, "topk:k=3", mode="gate", capture=capture, backend=backend, **options) as selector:
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.05)
        selector.attach(optimizer)
        expected, held = [], [math.nan] * selector.num_layers
        for found in program(model, selector, optimizer):
            held = [old if math.isnan(new) else new for old, new in zip(held, found[: len(held)], strict=True)]
            expected.append(held)
        history = {name: torch.as_tensor(column) for name, column in selector.history.arrays().items()}
        counts = {"frequency": selector.frequency.clone(), "trained": selector.trained_frequency.clone()}
        return history, torch.tensor(expected), counts


def check_equal(one, other) -> None:
    for name in ("scores", "mask", "trained"):
        torch.testing.assert_close(one[0][name], other[0][name], rtol=0, atol=0, equal_nan=True)
    for name in one[2]:
        assert torch.equal(one[2][name], other[2][name]), name


@pytest.mark.parametrize("name", PROGRAMS)
def test_both_captures_measure_what_the_backward_pass_left(name, backend):
    outer_trains = name != "reentrant"  # then all gradients appear in passes inside the pass
    runs = [
        run(PROGRAMS[name], capture=capture, backend=backend, outer_trains=outer_trains)
        for capture in ("backward", "step")
    ]
    check_equal(*runs)
    history, expected, counts = runs[0]
    torch.testing.assert_close(history["scores"], expected.float(), rtol=1e-6, atol=0, equal_nan=True)
    assert torch.equal(counts["trained"], (history["mask"] & history["trained"]).sum(0))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_device_measures_the_same(name, monkeypatch):
    on_host = run(PROGRAMS[name], capture="step")
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: True)
    for capture in ("backward", "step"):
        on_device = run(PROGRAMS[name], capture=capture)
        torch.testing.assert_close(
            on_device[0]["scores"], on_host[0]["scores"], rtol=1e-6, atol=0, equal_nan=True, msg=capture
        )
        for column in ("mask", "trained"):
            assert torch.equal(on_device[0][column], on_host[0][column]), (capture, column)
        for count in on_host[2]:
            assert torch.equal(on_device[2][count], on_host[2][count]), (capture, count)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("capture", ["backward", "step"])
@pytest.mark.parametrize("set_to_none", [False, True])
def test_a_layer_without_a_gradient(set_to_none, capture, on_device, monkeypatch):
    """Never measured, it takes no part in the selection and is wanted; measured before, it ranks by its score."""
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: on_device)
    model = Net()
    with FastSelector(model, "all", mode="gate", capture=capture) as selector:
        core = selector._core
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1, weight_decay=0.1)
        selector.attach(optimizer)
        weight = model.blocks[2][0].weight

        def step(number: int, *left_out: int) -> None:
            model.left_out = left_out
            model(batch(number)).backward()
            finish(model, selector, optimizer, set_to_none)

        for number in range(2):
            before = weight.detach().clone()
            step(number, 2)
            assert selector.selected() == [0, 1, 3, 4] and core.state["wanted"].tolist() == [True] * LAYERS
            assert selector.nonfinite.tolist() == [0] * LAYERS and math.isnan(float(selector.scores[2]))
            assert torch.equal(weight, before)  # not even its decay
            assert float(core.state["group_sums"][2]) == 0.0
        step(2)
        assert selector.selected() == [0, 1, 2, 3, 4] and core.unmeasured == [False] * LAYERS
        score = float(selector.scores[2])
        step(3, 2)
        assert selector.selected() == [0, 1, 2, 3, 4] and float(selector.scores[2]) == score
        if not (on_device and not set_to_none):  # there the host cannot know that what is there is zero
            assert core.unmeasured == [False, False, True, False, False]
        assert selector.frequency.tolist() == [4, 4, 2, 4, 4]
        assert selector.trained_frequency.tolist() == [4, 4, 1, 4, 4]


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("capture", ["backward", "step"])
def test_what_is_not_finite_shows_in_the_sums_of_its_group(capture, on_device, monkeypatch):
    """As the backward pass left it: clipping then spreads it."""
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: on_device)
    for where, place in ((lambda m: m.blocks[3][0].bias, 3), (lambda m: m.leave.weight, LAYERS)):
        for value in (math.nan, math.inf):
            model = Net()
            with FastSelector(model, "topk:k=3", mode="observe", capture=capture) as selector:
                where(model).register_hook(lambda g, v=value: g.masked_fill(torch.ones_like(g).bool(), v))
                model(batch(0)).backward()
                clip(model)
                selector.step()
                finite = selector._core.state["group_sums"].isfinite().tolist()
                assert finite == [index != place for index in range(LAYERS + 1)]
                assert selector._core.written()


def test_step_capture_under_compiled_autograd():
    """Which runs no hooks in C++ and none of the engine's callbacks."""
    model, twin = Net(), Net()
    with (
        FastSelector(model, "topk:k=2", mode="gate", capture="step") as selector,
        FastSelector(twin, "topk:k=2", mode="gate", capture="step") as expected,
    ):

        @torch.compile(backend="eager")
        def train(x: Tensor) -> None:
            model(x).backward()

        for step in range(3):
            with torch._dynamo.config.patch(compiled_autograd=True):
                train(batch(step))
            twin(batch(step)).backward()
            for each, its_selector in ((model, selector), (twin, expected)):
                clip(each)
                its_selector.step()
                each.zero_grad()
            torch.testing.assert_close(selector.scores, expected.scores, rtol=1e-5, atol=0)
            assert torch.equal(selector.mask, expected.mask)
            assert not selector._core.taken  # the gradients were where the step looked for them


def test_hooks_go_with_the_selector_and_not_with_copies_of_the_model():
    model = Net()
    selector = FastSelector(model, mode="observe", capture="step")
    copies = copy.deepcopy(model)
    assert not any(p._post_accumulate_grad_hooks for p in copies.parameters())
    selector.close()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    selector = FastSelector(model, mode="observe", capture="step")
    del selector
    gc.collect()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_a_state_of_before_trained_frequency_was_counted():
    model = Net()
    with FastSelector(model, "topk:k=2", mode="observe") as selector:
        model(batch(0)).backward()
        selector.step()
        state = selector.state_dict()
        assert state["core"]["trained_frequency"].sum() == 2
        del state["core"]["trained_frequency"]
        selector.load_state_dict(state)
        assert selector.frequency.sum() == 2 and selector.trained_frequency.sum() == 0
