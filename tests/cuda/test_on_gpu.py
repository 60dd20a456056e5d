"""What only a GPU can show: no synchronisation, graph capture, launches as the profiler sees them, streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from layerselect import FastSelector
from layerselect.core.cuda import CudaCore
from layerselect.modes.device_gate import make_gate
from layerselect.utils.mirror import Mirror

from tests.cuda.test_core import LAYERS, core_of, loss_on
from tests.helpers.models import plain

pytestmark = pytest.mark.cuda
VARIANCE = {"kind": "variance", "window": (0.35, 0.65), "inclusive": True, "splits": 1}


@pytest.fixture(autouse=True)
def built(native) -> None:
    if not native.has_cuda_kernels():
        pytest.skip("this build has no CUDA kernels")


@contextmanager
def no_sync() -> Iterator[None]:
    """Turns every synchronisation in the block into an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_check_can_fail():
    with pytest.raises(RuntimeError, match="synchronizing"), no_sync():
        torch.ones(1, device="cuda").item()


@pytest.mark.parametrize("fused", [True, False])
def test_a_gated_step_never_waits(fused: bool):
    device = torch.device("cuda")
    model = plain().to(device)
    core = core_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused, capturable=not fused, foreach=not fused)
    make_gate(optimizer, [list(block.parameters()) for block in model.blocks], core.state)
    tokens = tokens_on_device(4)

    def step(number: int, rule: dict) -> None:
        loss_of(model, tokens[number]).backward()
        core.step(rule, [True] * LAYERS)
        optimizer.step()
        optimizer.zero_grad()

    # The first steps make the optimizer's state, which all layers must have, and the keeper's room.
    step(0, {"kind": "all"})
    step(1, VARIANCE)
    with no_sync():
        step(2, VARIANCE)
        step(3, VARIANCE)
    assert core.state["step"].item() == 4


@pytest.mark.parametrize("rule", ["variance", "random:k=2"])
@pytest.mark.parametrize("mode", ["observe", "gate"])
def test_scaled_skipped_and_clipped_steps_never_wait(mode: str, rule: str):
    device = torch.device("cuda")
    model = plain().to(device)
    selector = FastSelector(model, rule, mode=mode)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-3, fused=True)
    selector.attach(optimizer)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    tokens = tokens_on_device(6)

    def step(number: int) -> None:
        # Behind the backward pass it would be too late: the norms are measured in it.
        scaler.scale(loss_of(model, tokens[number]) * (float("inf") if number == 4 else 1.0)).backward()
        selector.step(scaler)
        selector.clip_grad_norm_(1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    step(0)
    step(1)
    with no_sync():
        for number in range(2, 6):
            step(number)
    assert scaler.get_scale() == 2.0**9
    assert len(selector.history) == 5
    assert selector.nonfinite.tolist() == [0] * LAYERS
    assert all(torch.isfinite(p).all() for p in model.parameters())


def tokens_on_device(steps: int) -> list[torch.Tensor]:
    """Those of ``loss_on`` for the seeds 0, 1 and so on."""
    return [torch.randint(0, 64, (4, 8), generator=torch.Generator().manual_seed(s)).cuda() for s in range(steps)]


def loss_of(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())


@pytest.mark.parametrize("capture", ["backward", "step"])
def test_a_step_in_a_graph(capture: str):
    device = torch.device("cuda")
    model = plain().to(device)
    tokens = torch.randint(0, 64, (4, 8), device=device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # Its hooks keep the nodes that accumulate gradients, and these stay on the stream on which they were made.
        core = core_of(model, capture=capture)

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())
        loss.backward()
        core.step(VARIANCE, [True] * LAYERS)

    with torch.cuda.stream(side):
        for _ in range(3):
            model.zero_grad(set_to_none=False)
            step()
    torch.cuda.current_stream().wait_stream(side)
    expected = core.state["scores"].clone()
    graph = torch.cuda.CUDAGraph()
    model.zero_grad(set_to_none=False)
    with torch.cuda.graph(graph, stream=side):
        step()
        for parameter in model.parameters():
            parameter.grad.zero_()
    before = core.state["step"].item()
    for _ in range(5):
        graph.replay()
    torch.cuda.synchronize()
    assert core.state["step"].item() == before + 5
    torch.testing.assert_close(core.state["scores"], expected)


def test_launches_as_the_profiler_sees_them():
    device = torch.device("cuda")
    model = plain().to(device)
    core = core_of(model)
    loss_on(model, device, 0).backward()
    core.step(VARIANCE, [True] * LAYERS)
    model.zero_grad()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        loss_on(model, device, 1).backward()
        core.step(VARIANCE, [True] * LAYERS)
        torch.cuda.synchronize()
    ours = [event for event in profile.events() if event.name.startswith("layerselect_")]
    assert len(ours) == LAYERS + 1 == core.launches


def test_a_backward_pass_on_another_stream():
    device = torch.device("cuda")
    model = plain().to(device)
    core, check = core_of(model), core_of(model, capture="step")
    side = torch.cuda.Stream()
    for seed in range(5):
        model.zero_grad()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            loss_on(model, device, seed).backward()
            torch.cuda._sleep(10_000_000)
        core.step(VARIANCE, [True] * LAYERS)
        torch.cuda.synchronize()
        check.step(VARIANCE, [True] * LAYERS)
        assert torch.equal(core.state["scores"], check.state["scores"])


def test_the_same_bits_on_every_run():
    device = torch.device("cuda")
    parameters = [torch.nn.Parameter(torch.zeros(n, device=device)) for n in (5, 70_001, 4096, 1_000_003)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    seen = set()
    for _ in range(20):
        core = CudaCore(parameters, [0, 0, 1, 1], 2, capture="step")
        core.step(VARIANCE, [True, True])
        seen.add(core.state["sqnorms"].cpu().numpy().tobytes())
    assert len(seen) == 1


def test_a_late_selection_never_waits_for_the_current_step():
    mirror = Mirror(3, 1, torch.device("cuda"))
    selection = torch.ones(3, dtype=torch.bool, device="cuda")
    with no_sync():
        mirror.push(selection)
        assert mirror.read() is None
        torch.cuda._sleep(1_000_000_000)
        mirror.push(selection)
        assert mirror.read() == [True] * 3
        assert not torch.cuda.current_stream().query()
