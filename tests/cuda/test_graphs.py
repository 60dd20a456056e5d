"""Steps inside a CUDA graph. Without a GPU the core runs on the launchers' twins, and a replay is what it is on a
device: the backward pass, the device's part of the step and of the optimizer, and nothing of what the host does in
``selector.step()``.
"""

from __future__ import annotations

import logging

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.core import graph_capture
from layerselect.core import step as core_module
from layerselect.selector import upkeep

from tests.helpers.models import plain, plain_loss
from tests.helpers.selected import a_rule, train

STEPS = [1.0, 0.95, 0.9, 0.75, 0.6, 0.5]
BUDGETED = f'cost-aware:budget=0.8;base="topk:k=3";costs={STEPS}'


@pytest.fixture(autouse=True)
def device_core(monkeypatch: pytest.MonkeyPatch, native) -> None:
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: True)


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch):
    """Call it to begin a capture, and with False to end it."""

    def set_to(capturing: bool = True) -> None:
        for module in (graph_capture, upkeep):
            monkeypatch.setattr(module, "is_capturing", lambda device: capturing)

    return set_to


def selected_model(rule: str, fused: bool = True, **options):
    model = plain()
    selector = FastSelector(model, a_rule(rule, model), **{"mode": "gate", **options})
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2, fused=fused)
    selector.attach(optimizer)
    return model, selector, optimizer


def replay(model, selector, optimizer, steps: range) -> None:
    core = selector._core
    selector._attachment.watch.captured()
    options = core._options or {"kind": "fixed", "fixed": core._preselected_here}
    for step in steps:
        plain_loss(model, step).backward()
        core._core.step(options, [True] * selector.num_layers)
        optimizer.step()
        optimizer.zero_grad()


def assert_same(ours, theirs) -> None:
    for a, b in zip(ours[0].parameters(), theirs[0].parameters(), strict=True):
        assert torch.equal(a, b)
    for name in ("scores", "mask", "threshold", "frequency", "total_norm", "nonfinite", "kept_share", "step_cost"):
        torch.testing.assert_close(getattr(ours[1], name), getattr(theirs[1], name), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "kept-and-restored"])
@pytest.mark.parametrize("capture_kind", ["backward", "step"])
@pytest.mark.parametrize("rule", ["variance", "topk:k=2", BUDGETED, "all", "fixed:layers=[1,4]", "layer-card"])
def test_replays_are_steps(rule, capture_kind, fused):
    """Warm-up and interval go on, too: the device counts them."""
    settings = {"warmup": 2, "interval": 3, "capture": capture_kind, "fused": fused}
    replayed, stepped = selected_model(rule, **settings), selected_model(rule, **settings)
    train(*replayed, range(4))
    replay(*replayed, range(4, 15))
    train(*stepped, range(15))
    assert_same(replayed, stepped)
    rows, others = (selector.history.arrays() for selector in (replayed[1], stepped[1]))
    assert rows["step"].tolist() == list(range(15))
    assert (rows["mask"] == others["mask"]).all() and (rows["scores"] == others["scores"]).all()


def test_what_is_saved_counts_the_replays():
    settings = {"warmup": 3, "interval": 4}
    replayed, stepped = selected_model("topk:k=2", **settings), selected_model("topk:k=2", **settings)
    train(*replayed, range(2))
    replay(*replayed, range(2, 9))
    train(*stepped, range(9))
    assert replayed[1].steps == 2  # calls
    state = replayed[1].state_dict()
    assert state["step"] == 9 == stepped[1].state_dict()["step"]
    resumed = selected_model("topk:k=2", **settings)
    resumed[0].load_state_dict(replayed[0].state_dict())
    resumed[2].load_state_dict(replayed[2].state_dict())
    resumed[1].load_state_dict(state)
    assert resumed[1].steps == 9
    train(*resumed, range(9, 14))
    train(*stepped, range(9, 14))
    assert_same(resumed, stepped)


def test_steps_go_on_behind_replays():
    replayed, stepped = selected_model("variance"), selected_model("variance")
    train(*replayed, range(3))
    replay(*replayed, range(3, 8))
    train(*replayed, range(8, 11))
    train(*stepped, range(11))
    assert_same(replayed, stepped)


def test_history_holds_the_last_rows_and_frequency_all():
    model, selector, _ = run = selected_model("topk:k=2")
    train(*run, range(1))
    plain_loss(model).backward()
    core = selector._core
    for _ in range(700):
        core._core.step(core._options, [True] * 6)
    assert int(selector.frequency.sum()) == 2 * 701
    rows = selector.history.arrays()["step"].tolist()
    assert rows[-512:] == list(range(701 - 512, 701))  # the ring; read it, or save, as often as it fills
    for _ in range(300):
        core._core.step(core._options, [True] * 6)
    assert selector.history.arrays()["step"].tolist()[-812:] == list(range(701 - 512, 1001))


def test_a_replay_finds_everything_where_it_was():
    _model, selector, _ = run = selected_model(BUDGETED)
    train(*run, range(1))
    places = {name: tensor.data_ptr() for name, tensor in selector._core.state.items()}
    train(*run, range(1, 20))
    assert {name: tensor.data_ptr() for name, tensor in selector._core.state.items()} == places


def test_a_choice_that_stays_is_sent_to_the_device_once():
    _, selector, _ = run = selected_model("layer-card")
    train(*run, range(1))
    here = selector._core._preselected_here
    train(*run, range(1, 4))
    assert selector._core._preselected_here is here


@pytest.mark.parametrize(
    ("rule", "options", "sentence"),
    [
        *(
            (rule, {}, "chooses on the host, and a replay would repeat one choice for good")
            for rule in ("random:k=2", "lisa", "block-cyclic", "ist", "cosine", "weight-norm", "probe-once")
        ),
        ("measured", {}, "still measures what the layers cost"),
        ("variance", {"mode": "freeze"}, "so use mode='gate'"),
        ("variance", {"mode": "freeze", "probe_every": 3}, "so use mode='gate'"),
    ],
)
def test_what_a_replay_would_not_do_is_refused(rule, options, sentence, capture):
    model, selector, _optimizer = run = selected_model(rule, **options)
    train(*run, range(2))
    plain_loss(model, 2).backward()
    before = selector.state_dict()
    capture()
    with pytest.raises(LayerSelectError, match=f"cannot be captured in a CUDA graph: .*{sentence}"):
        selector.step()
    capture(False)
    assert selector.state_dict()["core"]["step"] == before["core"]["step"]
    selector.step()  # outside the graph it may go on


def test_measured_costs_that_stand_may_be_captured(capture):
    model, selector, _optimizer = run = selected_model("measured", warmup=9)
    train(*run, range(9))
    plain_loss(model).backward()
    capture()
    selector.step()


def test_the_first_step_is_not_captured(capture):
    model, selector, _ = selected_model("variance")
    plain_loss(model).backward()
    capture()
    with pytest.raises(LayerSelectError, match="make some steps without the graph before"):
        selector.step()


def test_the_host_does_not_decide_in_a_capture(capture, monkeypatch):
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: False)
    model, selector, _ = run = selected_model("variance", fused=False)
    train(*run, range(1))
    plain_loss(model).backward()
    capture()
    with pytest.raises(LayerSelectError, match="backend='native' and a rule that the kernels know"):
        selector.step()


class OnTheHost(torch.optim.SGD):
    """Counts its steps in a number, as optimizers do that are not made for a device."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.state[p]["count"] = self.state[p].get("count", 0) + 1
                    p.sub_(p.grad, alpha=0.1)


@pytest.mark.parametrize("warmup", [0, 1])
def test_an_optimizer_that_the_host_has_to_gate(capture, warmup):
    model = plain()
    selector = FastSelector(model, "topk:k=2", mode="gate", warmup=warmup)
    optimizer = OnTheHost(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    train(model, selector, optimizer, range(4))
    plain_loss(model, 2).backward()
    selector.step()
    capture()
    with pytest.raises(LayerSelectError, match="optimizer.step.* cannot be captured.*fused=True"):
        optimizer.step()


def test_what_an_optimizer_keeps_is_prepared_before(capture):
    model = plain()
    selector = FastSelector(model, "topk:k=2", mode="gate")
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
    selector.attach(optimizer)
    plain_loss(model, 2).backward()
    selector.step()
    capture()
    with pytest.raises(LayerSelectError, match="make ordinary steps before"):
        optimizer.step()
    capture(False)
    optimizer.step()
    optimizer.zero_grad()
    plain_loss(model, 2).backward()
    selector.step()
    capture()
    optimizer.step()
    for parameter in model.blocks[1].parameters():
        parameter.grad = None
    with pytest.raises(LayerSelectError, match="the same parameters have gradients"):
        optimizer.step()


def test_clipping_belongs_into_the_graph():
    model, selector, _optimizer = run = selected_model("variance")
    train(*run, range(1))
    plain_loss(model).backward()
    selector._core._core.step(selector._core._options, [True] * 6)
    with pytest.raises(LayerSelectError, match="call it once in a step, after selector.step"):
        selector.clip_grad_norm_(1.0)


def test_a_rule_replaced_behind_a_capture_is_said_to_come_too_late(capture, caplog):
    model, selector, _optimizer = run = selected_model("variance")
    train(*run, range(1))
    with caplog.at_level(logging.WARNING):
        selector.rule = "topk:k=3"
        assert "capture anew" not in caplog.text
        plain_loss(model).backward()
        capture()
        selector.step()
        capture(False)
        selector.rule = "topk:k=2"
    assert "goes on with the old rule: capture anew" in caplog.text
