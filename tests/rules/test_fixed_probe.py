"""Given layers that are still measured with all others: the same training, and a history that tells of all layers."""

import numpy as np
import pytest
import torch
from layerselect import CostAware, FastSelector, Fixed, LayerSelectError, make_rule
from layerselect.checkpoint import load_selector, save_selector

from tests.helpers.models import plain, plain_loss

LAYERS = [1, 4]


def build(rule, mode="freeze", **options):
    model = plain()
    selector = FastSelector(model, rule, mode=mode, **options)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
    selector.attach(optimizer)
    return model, selector, optimizer


def run(model, selector, optimizer, steps):
    for step in steps:
        plain_loss(model, step).backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()


def test_the_rule_and_what_is_saved_of_it():
    rule = make_rule("fixed:layers=[1,4];probe=true")
    assert isinstance(rule, Fixed)
    assert rule.probe is True
    assert rule.uses_scores is True
    assert rule.config() == {"layers": LAYERS, "probe": True}
    silent = Fixed(LAYERS)
    assert silent.uses_scores is False
    assert silent.config() == {"layers": LAYERS}
    assert Fixed(**rule.config()).config() == rule.config()
    assert Fixed.uses_scores is False  # one rule that probes is no matter of the others
    with pytest.raises(LayerSelectError, match="probe=1 is neither true nor false"):
        Fixed(LAYERS, probe=1)


def test_all_layers_are_measured_at_probes_and_only_the_given_ones_move(backend):
    model, selector, optimizer = build(Fixed(LAYERS, probe=True), probe_every=2, backend=backend)
    before = [[p.detach().clone() for p in block.parameters()] for block in model.blocks]
    for step in range(5):
        plain_loss(model, step).backward()
        taking = [all(p.grad is not None for p in block.parameters()) for block in model.blocks]
        assert taking == [step % 2 == 0 or layer in LAYERS for layer in range(6)]
        selector.step()
        left = [any(p.grad is not None for p in block.parameters()) for block in model.blocks]
        assert left == [layer in LAYERS for layer in range(6)]  # a probe leaves the optimizer nothing of the others
        optimizer.step()
        optimizer.zero_grad()
    for layer, (old, block) in enumerate(zip(before, model.blocks, strict=True)):
        assert [torch.equal(a, b) for a, b in zip(old, block.parameters(), strict=True)] == [layer not in LAYERS] * 6
    rows = selector.history.arrays()
    assert rows["trained"].all(axis=1).tolist() == [True, False, True, False, True]
    assert (rows["mask"] == [layer in LAYERS for layer in range(6)]).all()
    assert np.isfinite(rows["scores"]).all()
    assert (rows["scores"][0] != rows["scores"][2]).all()
    assert not any(optimizer.state[p] for layer in {0, 2, 3, 5} for p in model.blocks[layer].parameters())


@pytest.mark.parametrize("mode", ["observe", "gate", "freeze"])
def test_it_trains_what_the_silent_rule_trains(mode, backend):
    one = build(Fixed(LAYERS, probe=True), mode, probe_every=3, backend=backend)
    other = build(Fixed(LAYERS), mode, probe_every=3, backend=backend)
    run(*one, range(7))
    run(*other, range(7))
    for a, b in zip(one[0].parameters(), other[0].parameters(), strict=True):
        assert torch.equal(a, b)
    assert one[1].frequency.tolist() == other[1].frequency.tolist()


def test_weight_decay_and_momentum_do_not_move_frozen_layers_either():
    model = plain()
    selector = FastSelector(model, Fixed(LAYERS, probe=True), mode="freeze", probe_every=1)
    optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    selector.attach(optimizer)
    before = [p.detach().clone() for p in model.blocks[0].parameters()]
    run(model, selector, optimizer, range(4))
    assert all(torch.equal(a, b) for a, b in zip(before, model.blocks[0].parameters(), strict=True))
    assert selector.history.arrays()["trained"].all()


def test_resumes_bit_for_bit(tmp_path):
    rule = "fixed:layers=[1,4];probe=true"
    model, selector, optimizer = build(rule, probe_every=3)
    run(model, selector, optimizer, range(10))
    first = build(rule, probe_every=3)
    run(*first, range(5))
    save_selector(first[1], tmp_path)
    second = build(rule, probe_every=3)
    second[0].load_state_dict(first[0].state_dict())
    second[2].load_state_dict(first[2].state_dict())
    load_selector(second[1], tmp_path)
    run(*second, range(5, 10))
    for a, b in zip(model.parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b)
    rows, others = selector.history.arrays(), second[1].history.arrays()
    assert all(np.array_equal(rows[name], others[name], equal_nan=True) for name in rows)


@pytest.mark.parametrize("saved", [False, True])
def test_probing_may_be_switched_on_or_off_at_a_checkpoint(saved):
    """The state says which layers, and that is the same."""
    first = build(Fixed(LAYERS, probe=saved), probe_every=2)
    run(*first, range(3))
    state = first[1].state_dict()
    second = build(Fixed(LAYERS, probe=not saved), probe_every=2)
    second[1].load_state_dict(state)
    run(*second, range(3, 7))
    assert second[1].history.arrays()["trained"][3:].all(axis=1).any() == (not saved)
    assert second[1].selected() == LAYERS


def test_a_layer_that_is_not_finite_is_left_out_and_measured_again():
    model, selector, optimizer = build(Fixed(LAYERS, probe=True), probe_every=0)
    run(model, selector, optimizer, range(2))
    hook = next(model.blocks[1].parameters()).register_hook(lambda grad: grad * float("nan"))
    plain_loss(model).backward()
    selector.step()
    hook.remove()
    assert selector.selected() == [4]
    optimizer.zero_grad()
    run(model, selector, optimizer, range(1))
    assert selector.selected() == LAYERS


def test_the_kernels_are_told_the_same():
    """A device applies the mask by itself, whether or not the host probes."""
    rules = [Fixed(LAYERS), Fixed(LAYERS, probe=True)]
    for rule in rules:
        rule.bind([f"layers.{i}" for i in range(6)])
    told = [rule.kernel_options(6, torch.device("cpu")) for rule in rules]
    assert [options["kind"] for options in told] == ["fixed", "fixed"]
    assert torch.equal(told[0]["fixed"], told[1]["fixed"])


def test_under_a_budget():
    rule = CostAware(budget=0.9, base=Fixed(LAYERS, probe=True))
    model, selector, optimizer = build(rule, probe_every=2)
    run(model, selector, optimizer, range(3))
    assert set(selector.selected()) <= set(LAYERS)
    assert rule.config()["base"] == {"name": "fixed", "layers": LAYERS, "probe": True}
