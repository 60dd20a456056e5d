"""``on_freeze="reset"``: the optimizer forgets a layer that stops training, and not before it is done with it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.core import step as core_module
from torch import nn
from torch.amp import GradScaler

from tests.helpers.models import plain, plain_loss

LAYERS = 6
OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
}


class ByHand:
    """A model in which each layer has an optimizer, which is thrown away with all it knows when its layer stops."""

    def __init__(self, make) -> None:
        self.model, self.make = plain(), make
        self.layers = [list(block.parameters()) for block in self.model.blocks]
        self.outer = make([*self.model.embed.parameters(), *self.model.head.parameters()])
        self.optimizers: dict[int, torch.optim.Optimizer] = {}

    def step(self, batch: int, trained: set[int], stops: set[int]) -> None:
        """``trained`` layers move; those in ``stops`` are done for, after this step at the latest."""
        plain_loss(self.model, batch).backward()
        for layer in trained:
            self.optimizers.setdefault(layer, self.make(self.layers[layer])).step()
        self.outer.step()
        self.model.zero_grad()
        for layer in stops:
            self.optimizers.pop(layer, None)


def layers_with_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> set[int]:
    return {i for i, block in enumerate(model.blocks) if any(optimizer.state.get(p) for p in block.parameters())}


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    return sum(v.nbytes for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor))


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(
    ("rule", "probe_every", "warmup", "interval", "lag"),
    [
        ("topk:k=2", 4, 0, 1, 0),
        ("topk:k=2", 5, 2, 3, 1),
        ("random:k=2", 0, 1, 1, 0),
        ("random:k=2", 0, 0, 3, 2),
        ("variance", 3, 1, 1, 2),
    ],
)
def test_as_an_optimizer_driven_by_hand(kind, rule, probe_every, warmup, interval, lag):
    model, hand = plain(), ByHand(OPTIMIZERS[kind])
    selector = FastSelector(
        model,
        rule,
        mode="freeze",
        on_freeze="reset",
        probe_every=probe_every,
        warmup=warmup,
        interval=interval,
        lag=lag,
    )
    optimizer = OPTIMIZERS[kind](selector.trainable_parameters())
    selector.attach(optimizer)
    returned = 0
    for step in range(20):
        active = set(selector.trained())
        plain_loss(model, step).backward()
        had = layers_with_state(optimizer, model)
        selector.step()
        assert layers_with_state(optimizer, model) == had  # the step that is to come may use it
        optimizer.step()
        optimizer.zero_grad()
        chosen, following = set(selector.selected()), set(selector.trained())
        trained = chosen & active
        returned += len(trained - had) if step > warmup else 0
        hand.step(step, trained, stops=set(range(LAYERS)) - (chosen & following))
        assert layers_with_state(optimizer, model) == set(hand.optimizers), step
        assert layers_with_state(optimizer, model) <= trained
        for a, b in zip(model.parameters(), hand.model.parameters(), strict=True):
            assert torch.equal(a, b), step
        for layer, alone in hand.optimizers.items():
            for p, q in zip(model.blocks[layer].parameters(), hand.layers[layer], strict=True):
                assert set(optimizer.state[p]) == set(alone.state[q])
                for name, value in optimizer.state[p].items():
                    assert torch.equal(value, alone.state[q][name]), (step, layer, name)
    assert returned > 3  # layers came back, and began anew


def test_memory_follows_the_selection():
    """Bytes of optimizer state after each step, for two of six equal layers and Adam's two moments."""
    sizes = {}
    for on_freeze in ("keep", "reset"):
        model = plain()
        selector = FastSelector(model, "random:k=2", mode="freeze", on_freeze=on_freeze, seed=1)
        optimizer = torch.optim.Adam(selector.trainable_parameters(), lr=1e-3)
        selector.attach(optimizer)
        sizes[on_freeze] = []
        for step in range(12):
            plain_loss(model, step).backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
            sizes[on_freeze].append(state_bytes(optimizer))
    parameters = list(plain().blocks[0].parameters())
    layer = sum(2 * p.nbytes + 4 for p in parameters)
    outer = sum(2 * p.nbytes + 4 for p in (*plain().embed.parameters(), *plain().head.parameters()))
    assert max(sizes["reset"]) <= outer + 2 * layer  # less where a layer of the next draw was not in this one
    assert min(sizes["reset"]) >= outer
    assert sizes["keep"][-1] == outer + LAYERS * layer


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("lag", [0, 1, 2])
def test_where_the_device_decides(kind, lag, monkeypatch, caplog):
    """The host knows which layers take gradients: state lives while they do, and starts anew when they do again."""
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: True)
    model, hand = plain(), ByHand(OPTIMIZERS[kind])
    selector = FastSelector(model, "topk:k=2", mode="freeze", on_freeze="reset", probe_every=5, lag=lag)
    assert selector._core.decides_on_device
    optimizer = OPTIMIZERS[kind](selector.trainable_parameters())
    selector.attach(optimizer)
    for step in range(16):
        active = set(selector.trained())
        plain_loss(model, step).backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
        following = set(selector.trained())
        assert layers_with_state(optimizer, model) <= following & active
        hand.step(step, set(selector.selected()) & active, stops=set(range(LAYERS)) - following)
        for a, b in zip(model.parameters(), hand.model.parameters(), strict=True):
            assert torch.equal(a, b), step
    assert "replaces" not in caplog.text  # the gate was told that the state is gone


@pytest.mark.parametrize("lag", [0, 2])
def test_a_run_that_resets_continues_bit_for_bit(lag):
    def start(model):
        selector = FastSelector(model, "variance", mode="freeze", on_freeze="reset", probe_every=4, lag=lag)
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
        selector.attach(optimizer)
        return selector, optimizer

    def steps(model, selector, optimizer, numbers):
        for step in numbers:
            plain_loss(model, step).backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()

    whole = plain()
    selector, optimizer = start(whole)
    steps(whole, selector, optimizer, range(7))
    saved = copy.deepcopy((selector.state_dict(), whole.state_dict(), optimizer.state_dict()))
    assert len(saved[2]["state"]) < len(selector.trainable_parameters())
    steps(whole, selector, optimizer, range(7, 16))
    resumed = plain(seed=5)
    other, fresh = start(resumed)
    resumed.load_state_dict(saved[1])
    other.load_state_dict(saved[0])
    fresh.load_state_dict(saved[2])
    steps(resumed, other, fresh, range(7, 16))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert state_bytes(optimizer) == state_bytes(fresh)


@pytest.mark.parametrize("kind", ["adamw", "adamw fused"])
def test_a_skipped_step_drops_nothing(kind):
    """Beside a run in which the skipped steps, probes among them, never were."""
    runs = []
    for skips in ({0, 4, 5, 9}, set()):
        model = plain()
        selector = FastSelector(model, "topk:k=2", mode="freeze", on_freeze="reset", probe_every=4)
        optimizer = OPTIMIZERS[kind](selector.trainable_parameters())
        selector.attach(optimizer)
        scaler = GradScaler("cpu", init_scale=2.0**10, growth_interval=10**6)
        batch = 0
        for attempt in range(12 + len(skips)):
            handle = model.head.weight.register_hook(lambda g: g * math.inf) if attempt in skips else None
            scaler.scale(plain_loss(model, batch)).backward()
            before = {p: copy.deepcopy(optimizer.state[p]) for p in model.parameters() if optimizer.state.get(p)}
            selector.step(scaler)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if handle is None:
                batch += 1
                continue
            handle.remove()
            for p, state in before.items():
                assert all(torch.equal(value, optimizer.state[p][name]) for name, value in state.items())
        runs.append((list(model.parameters()), layers_with_state(optimizer, model)))
    assert all(torch.equal(a, b) for a, b in zip(runs[0][0], runs[1][0], strict=True))
    assert runs[0][1] == runs[1][1]


def test_a_layer_left_out_for_one_bad_gradient_keeps_its_state():
    """It is still wanted: the selection has not let go of it."""
    model = plain()
    selector = FastSelector(model, "fixed:layers=[1,4]", mode="freeze", on_freeze="reset")
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
    selector.attach(optimizer)
    for step in range(3):
        handle = model.blocks[4][1].weight.register_hook(lambda g: g * math.nan) if step == 1 else None
        plain_loss(model, step).backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
        if handle is not None:
            handle.remove()
            assert selector.selected() == [1]
        assert layers_with_state(optimizer, model) == {1, 4}
    assert [int(optimizer.state[model.blocks[i][1].weight]["step"]) for i in (1, 4)] == [3, 2]


def test_closing_ends_it():
    model = plain()
    selector = FastSelector(model, "topk:k=1", mode="freeze", on_freeze="reset")
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
    selector.attach(optimizer)
    plain_loss(model).backward()
    selector.step()
    selector.close()
    optimizer.zero_grad()
    plain_loss(model).backward()
    optimizer.step()
    assert layers_with_state(optimizer, model) == set(range(LAYERS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_freeze": "drop"}, "on_freeze='drop' is none of 'keep', 'reset'"),
        ({"on_freeze": "reset", "mode": "gate"}, "no meaning in mode 'gate'.* use mode='freeze'"),
        ({"on_freeze": "reset", "mode": "observe"}, "no meaning in mode 'observe'"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(LayerSelectError, match=message):
        FastSelector(plain(), **arguments)
