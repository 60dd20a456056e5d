"""Gates that the device decides: unselected layers keep every bit, selected ones get what they would get alone."""

from __future__ import annotations

import pytest
import torch
from layerselect.modes import room
from layerselect.modes.device_gate import FusedGate, KeepingGate, make_gate
from layerselect.modes.fresh_state import start_momentum
from layerselect.modes.gate import Gate, parameters_of
from layerselect.utils.mirror import Mirror

from tests.cuda.gated_twins import COUNT_ON_THE_HOST, Gated, random_masks
from tests.cuda.test_core import LAYERS, loss_on
from tests.helpers.gated import (
    OPTIMIZERS,
    TAKE_A_GATE,
    Alone,
    Build,
    Counting,
    Replacing,
    bits,
    copy_gradients,
    everything_of,
)
from tests.helpers.models import plain


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fifty_random_selections(device: torch.device, name: str):
    if device.type == "cuda" and name == "adagrad fused":
        pytest.skip("torch has no such kernel for CUDA")
    gated = Gated(device, OPTIMIZERS[name])
    assert type(gated.gates[0]) is (FusedGate if name in TAKE_A_GATE else KeepingGate)
    for step, mask in enumerate(random_masks()):
        gated.step(step, mask)


def test_a_closure_and_schedulers_count_one_step(device: torch.device):
    model = plain().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    state = {"gate": torch.ones(LAYERS + 1, device=device), "mask": None}
    assert type(make_gate(optimizer, [list(block.parameters()) for block in model.blocks], state)) is FusedGate
    before = bits(model.blocks[0][1].weight)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_on(model, device, 0)
        loss.backward()
        return loss

    head = bits(model.head.weight)
    optimizer.step(closure)
    scheduler.step()
    assert bits(model.blocks[0][1].weight) == before
    assert bits(model.head.weight) != head
    assert scheduler.get_last_lr() == [0.005]
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize(
    "names", [("adam fused", "sgd momentum fused"), ("adam fused", "rmsprop"), ("lion", "adagrad")]
)
def test_several_optimizers_share_the_layers(device: torch.device, names: tuple[str, ...], monkeypatch):
    gated = Gated(device, *(OPTIMIZERS[name] for name in names))
    for step, mask in enumerate(random_masks(10)):
        gated.step(step, mask)
    for gate in gated.gates:
        if isinstance(gate, KeepingGate):
            assert {id(h.parameter) for h in gate._held() or []} <= parameters_of(gate._optimizer)
    # Every layer was stepped, so the host has nothing left to decide.
    monkeypatch.setattr(Gate, "_set_aside", lambda self: pytest.fail("gated by the host"))
    for step, mask in enumerate(random_masks(20)):
        if device.type == "cpu" or COUNT_ON_THE_HOST.isdisjoint(names):
            gated.step(step, mask)


def test_it_says_that_a_layer_without_state_is_waited_for(device: torch.device, caplog):
    # capturable: on a GPU it otherwise counts its steps on the host, which is another reason to wait.
    on_gpu = device.type == "cuda"
    gated = Gated(device, lambda ps: torch.optim.NAdam(ps, lr=1e-3, foreach=False, capturable=on_gpu))
    mask = torch.ones(LAYERS, dtype=torch.bool)
    mask[3] = False
    gated.step(0, mask)
    for _ in range(100):
        gated.optimizers[0].step()
    assert [r.message[:68] for r in caplog.records] == [
        "layer 3 and perhaps others were never selected in 100 steps, so NAda"
    ]


def test_an_optimizer_without_state_is_not_waited_for(device: torch.device, monkeypatch):
    gated = Gated(device, lambda ps: torch.optim.SGD([{"params": ps, "momentum": 0.0}], lr=0.1, foreach=True))
    gated.step(0, torch.ones(LAYERS, dtype=torch.bool))
    monkeypatch.setattr(Gate, "_set_aside", lambda self: pytest.fail("gated by the host"))
    for step, mask in enumerate(random_masks(10)):
        gated.step(step, mask)


@pytest.mark.parametrize(
    ("build", "why"),
    [(Counting, "Counting counts in its parameter groups"), (Replacing, "Replacing replaces the tensors of its state")],
)
def test_what_the_device_cannot_keep_is_gated_by_the_host(device: torch.device, build: Build, why: str, caplog):
    gated = Gated(device, build)
    for step, mask in enumerate(random_masks(12)):
        gated.step(step, mask)
    assert [r.message for r in caplog.records if "waits for the device" in r.message] == [
        f"{why}{', for all layers together' if build is Counting else ''}, so every gated step waits for the device: "
        "use fused=True or capturable=True where there is one"
    ]


@pytest.mark.parametrize("name", ["adamw fused", "sgd momentum fused", "rmsprop"])
def test_a_scaler_skips_what_the_gate_lets_through(device: torch.device, name: str):
    gated = Gated(device, OPTIMIZERS[name])
    twin_optimizer = OPTIMIZERS[name](gated.twin.parameters())
    scaler, twin_scaler = (torch.amp.GradScaler(device.type, init_scale=16.0) for _ in range(2))
    for step, mask in enumerate(random_masks(8)):
        gated.model.zero_grad()
        scaler.scale(loss_on(gated.model, device, step)).backward()
        twin_scaler.scale(torch.zeros((), device=device))  # it must have seen a loss
        if step == 3:
            gated.model.head.weight.grad[0, 0] = float("inf")
        if step == 0:  # plain SGD(fused=True) cannot start one momentum after the other
            mask.fill_(True)
        gated.state["mask"].copy_(mask)
        gated.state["gate"][:LAYERS].copy_(1.0 - mask.float())
        copy_gradients(gated.model, gated.twin, mask.nonzero().flatten().tolist())
        before = [gated.everything(layer) for layer in range(LAYERS)]
        scaler.step(gated.optimizers[0])
        twin_scaler.step(twin_optimizer)
        for layer in range(LAYERS):
            moves = bool(mask[layer]) and step != 3
            assert (gated.everything(layer) != before[layer]) == moves, (step, layer)
        mine = everything_of(gated.optimizers[0], gated.model.parameters())
        assert mine == everything_of(twin_optimizer, gated.twin.parameters()), step
        scaler.update()
        twin_scaler.update()
        assert scaler.get_scale() == twin_scaler.get_scale() == (8.0 if step >= 3 else 16.0)


def test_a_mirror_is_as_late_as_it_says(device: torch.device):
    for lag in (0, 1, 2):
        mirror = Mirror(3, lag, device)
        seen = []
        for step in range(5):
            mirror.push(torch.tensor([step == 0, step % 2 == 0, True], device=device))
            seen.append(mirror.read())
        made = [[step == 0, step % 2 == 0, True] for step in range(5)]
        assert seen == [None] * lag + made[: 5 - lag]


@pytest.mark.parametrize("name", ["sgd nesterov fused", "adam amsgrad fused"])
def test_a_scaler_that_found_it_on_several_devices(device: torch.device, name: str):
    """It adds up what it found, and torch's kernels skip for exactly 1."""
    model = plain().to(device)
    optimizer = OPTIMIZERS[name](model.parameters())
    layers = [list(block.parameters()) for block in model.blocks]
    state = {"gate": torch.zeros(LAYERS + 1, device=device), "mask": None}
    make_gate(optimizer, layers, state)
    loss_on(model, device, 0).backward()
    before = [bits(p) for p in model.parameters()]
    optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(2.0, device=device)
    optimizer.step()
    assert [bits(p) for p in model.parameters()] == before
    for state in optimizer.state.values():
        assert all(float(value.abs().max()) == 0.0 for value in state.values())
    assert len(optimizer.state) == len(before)


class Experts(torch.nn.Module):
    """Two of eight experts of each layer have tokens in a step; the others have no gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = torch.nn.ModuleList(
            torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(8)) for _ in range(LAYERS)
        )

    def loss(self, step: int) -> torch.Tensor:
        draw = torch.Generator().manual_seed(step)
        x = torch.randn(4, 8, generator=draw).to(next(self.parameters()).device)
        for block in self.blocks:
            for i in torch.randperm(8, generator=draw)[:2].tolist():
                x = x + block[i](x).tanh()
        return x.square().mean()


@pytest.mark.parametrize("begin_all", [True, False])
@pytest.mark.parametrize("name", ["adamw foreach", "sgd momentum foreach", "adafactor foreach", "sgd"])
def test_missing_gradients_are_not_waited_for(native, name: str, begin_all: bool, monkeypatch):
    model, twin = Experts(), Experts()
    layers = [list(block.parameters()) for block in model.blocks]
    state = {"gate": torch.zeros(LAYERS + 1), "mask": torch.ones(LAYERS, dtype=torch.bool)}
    optimizer, alone = OPTIMIZERS[name](model.parameters()), Alone(OPTIMIZERS[name], twin.parameters())
    made = []

    class Module:
        def Keeper(*args) -> object:  # noqa: N802, a class in the compiled core
            made.append(1)
            return native.Keeper(*args[1:])

    monkeypatch.setattr(room._backend, "load", lambda *_: Module())
    monkeypatch.setattr(Gate, "_set_aside", lambda self: pytest.fail("gated by the host"))
    gate = make_gate(optimizer, layers, state, begin_all=begin_all)
    for step, mask in enumerate(random_masks(30)):
        for each in (model, twin):
            each.zero_grad()
            each.loss(step).backward()
        state["gate"][:LAYERS].copy_(1.0 - mask.float())
        for parameters in (list(b.parameters()) for b, chosen in zip(twin.blocks, mask, strict=True) if not chosen):
            for p in parameters:
                p.grad = None
        optimizer.step()
        alone.step()
        assert everything_of(optimizer, model.parameters()) == everything_of(alone, twin.parameters()), step
    assert type(gate) is KeepingGate
    assert len(made) == 1 if begin_all else len(made) < 15


@pytest.mark.parametrize("name", ["adamw fused", "adamw foreach", "sgd momentum fused", "lion"])
def test_groups_that_change_after_the_gate_was_made(device: torch.device, name: str):
    """A layer that the optimizer gets later, lists of parameters that are replaced, and state that is loaded."""
    model, twin = plain().to(device), plain().to(device)
    layers = [list(block.parameters()) for block in model.blocks]
    state = {
        "gate": torch.zeros(LAYERS + 1, device=device),
        "mask": torch.ones(LAYERS, dtype=torch.bool, device=device),
    }
    build = OPTIMIZERS[name]
    optimizers = [build([*m.embed.parameters(), *m.head.parameters()]) for m in (model, twin)]
    make_gate(optimizers[0], layers, state)
    for step in range(8):
        if step < LAYERS:
            for each, m in zip(optimizers, (model, twin), strict=True):
                each.add_param_group({"params": list(m.blocks[step].parameters())})
        if step == 6:
            for each in optimizers:
                each.load_state_dict(each.state_dict())
                for group in each.param_groups:
                    group["params"] = list(group["params"])
        chosen = [layer for layer in range(LAYERS) if (layer + step) % 3]
        state["mask"].fill_(False)[chosen] = True
        state["gate"].fill_(1.0)[chosen] = 0.0
        state["gate"][LAYERS] = 0.0
        for m in (model, twin):
            m.zero_grad()
            loss_on(m, device, step).backward()
        for layer in range(LAYERS):
            if layer not in chosen:
                twin.blocks[layer].zero_grad()
        if name == "sgd momentum fused":  # plain SGD(fused=True) cannot start one momentum after the other
            start_momentum(optimizers[1], [p for p in twin.parameters() if p.grad is not None])
        for each in optimizers:
            each.step()
        assert everything_of(optimizers[0], model.parameters()) == everything_of(optimizers[1], twin.parameters()), step
