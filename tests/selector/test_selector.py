"""FastSelector against float64 gradients and against a brute-force simulation."""

from __future__ import annotations

import math

import pytest
import torch
from layerselect import FastSelector, Fixed, LayerSelectError, Rule, Selection, TopK
from torch import nn

from tests.helpers.models import HUGGING_FACE, hugging_face, language_loss, plain, plain_loss, with_lora
from tests.helpers.norms import gradient_norms
from tests.helpers.simulation import Simulation, variance_split

CAPTURES = ("backward", "step")


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize(
    ("name", "adapter"), [("plain", "full"), *((name, kind) for name in HUGGING_FACE for kind in ("full", "lora"))]
)
def test_scores_agree_with_float64(name, adapter, capture, backend):
    if name == "plain":
        model, loss_of = plain(), plain_loss
    else:
        model, loss_of = hugging_face(name), language_loss
        model.eval()  # no dropout: the float64 copy must see the same function
        model = with_lora(model) if adapter == "lora" else model
    with FastSelector(model, mode="observe", capture=capture, backend=backend) as selector:
        loss_of(model).backward()
        selector.step()
        expected = gradient_norms(selector, model)
        assert selector.scores.dtype == torch.float32
        assert selector.scores.tolist() == pytest.approx(expected, rel=1e-6)
        total = math.sqrt(math.fsum(float(p.grad.double().square().sum()) for p in selector.trainable_parameters()))
        assert float(selector.total_norm) == pytest.approx(total, rel=1e-6)
        # And with the gradients of the same model computed in float64 from the start, to the rounding of an fp32
        # backward pass.
        model.zero_grad()
        model.double()
        loss_of(model).backward()
        assert selector.scores.tolist() == pytest.approx(gradient_norms(selector, model), rel=5e-6)
        assert set(selector.selected()) == variance_split(expected)


@pytest.mark.parametrize("capture", CAPTURES)
def test_runs_repeat_bit_for_bit(capture, backend):
    def run() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        model = plain()
        with FastSelector(model, mode="gate", capture=capture, backend=backend) as selector:
            optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
            selector.attach(optimizer)
            for step in range(10):
                plain_loss(model, step).backward()
                selector.step()
                optimizer.step()
                optimizer.zero_grad()
            rows = selector.history.state_dict()
            return rows["scores"], rows["mask"], nn.utils.parameters_to_vector(model.parameters()).detach()

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("form", ["l2", "rms", "sqrt_sum"])
def test_score_forms(form):
    model = plain(layers=3)
    with FastSelector(model, score=form, mode="observe") as selector:
        plain_loss(model).backward()
        selector.step()
        for layer, score in zip(model.blocks, selector.scores.tolist(), strict=True):
            norms = [float(p.grad.double().norm()) for p in layer.parameters()]
            squares = math.fsum(norm**2 for norm in norms)
            expected = {
                "l2": math.sqrt(squares),
                "rms": math.sqrt(squares / sum(p.numel() for p in layer.parameters())),
                "sqrt_sum": math.sqrt(math.fsum(math.sqrt(norm) for norm in norms)),
            }[form]
            assert score == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("mode", "probe_every", "warmup", "interval", "lag"),
    [
        ("gate", 0, 0, 1, 0),
        ("freeze", 5, 0, 1, 0),
        ("freeze", 0, 0, 1, 0),
        ("freeze", 6, 3, 2, 0),
        ("freeze", 7, 0, 1, 1),
        ("freeze", 6, 2, 1, 2),
        ("gate", 0, 4, 3, 0),
    ],
)
@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
def test_training_follows_the_simulation(mode, probe_every, warmup, interval, lag, lora, backend):
    def build() -> nn.Module:
        return with_lora(hugging_face("llama")) if lora else plain()

    loss_of = language_loss if lora else plain_loss
    model, twin = build(), build()
    settings = {"mode": mode, "probe_every": probe_every, "warmup": warmup, "interval": interval, "lag": lag}
    selector = FastSelector(model, backend=backend, **settings)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
    selector.attach(optimizer)
    named = {name: p for name, p in twin.named_parameters() if p.requires_grad}
    layers = [[p for name, p in named.items() if name.startswith(layer + ".")] for layer in selector.layer_names]
    inside = {id(p) for layer in layers for p in layer}
    simulation = Simulation(
        twin, layers, [p for p in named.values() if id(p) not in inside] or [nn.Parameter(torch.zeros(1))], **settings
    )

    for step in range(24):
        loss_of(model, step).backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
        simulation.step(loss_of(twin, step))
        assert set(selector.selected()) == simulation.selection, step
        assert selector.scores.tolist() == pytest.approx(simulation.scores, rel=1e-6), step
        for (name, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
            assert torch.equal(parameter, other), (step, name)
    assert selector.frequency.tolist() == simulation.frequency
    assert min(len(layers), sum(simulation.frequency)) > 0 and len(selector.history) == 24
    selector.close()


def test_accumulation_scores_the_accumulated_gradient(backend):
    model = plain()
    with FastSelector(model, mode="observe", backend=backend) as selector:
        for micro_batch in range(3):
            (plain_loss(model, micro_batch) / 3).backward()
        selector.step()
        assert selector.scores.tolist() == pytest.approx(gradient_norms(selector, model), rel=1e-6)
        # Not the sum of the norms of the micro-batches:
        separate = [0.0] * 6
        for micro_batch in range(3):
            model.zero_grad()
            (plain_loss(model, micro_batch) / 3).backward()
            separate = [a + b for a, b in zip(separate, gradient_norms(selector, model), strict=True)]
        assert all(one < many * 0.999 for one, many in zip(selector.scores.tolist(), separate, strict=True))


def test_loss_scale_changes_no_selection():
    selections = []
    for scale in (1.0, 2.0**-10, 3e4):
        model = plain()
        with FastSelector(model, mode="observe") as selector:
            (plain_loss(model) * scale).backward()
            selector.step()
            selections.append(selector.selected())
    assert selections[0] == selections[1] == selections[2]


def test_freeze_follows_the_selection_and_close_leaves_the_model_as_found():
    model = plain()
    model.head.weight.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    selector = FastSelector(model, Fixed([4, -1]), mode="freeze")
    # The rule reads no scores, so nothing needs to be measured before it freezes.
    assert selector.trained() == [4, 5]
    for _ in range(3):
        plain_loss(model).backward()
        assert all(p.grad is None for block in model.blocks[:4] for p in block.parameters())
        assert all(p.grad is not None for block in model.blocks[4:] for p in block.parameters())
        selector.step()
        assert selector.selected() == [4, 5]
        model.zero_grad()
    selector.close()
    selector.close()
    assert [p.requires_grad for p in model.parameters()] == flags
    plain_loss(model).backward()
    with pytest.raises(LayerSelectError, match="was closed"):
        selector.step()


def test_random_layers_train_what_they_drew_in_freeze():
    """Every drawn layer moves in its step: the draw is made before the backward pass, not after it."""
    model = plain()
    with FastSelector(model, "random:k=2", mode="freeze", seed=3) as selector:
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        drawn = []
        for step in range(12):
            before = [block[1].weight.clone() for block in model.blocks]
            plain_loss(model, step).backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
            moved = [i for i, b in enumerate(before) if not torch.equal(model.blocks[i][1].weight, b)]
            assert moved == selector.selected()
            drawn.append(moved)
    gated = plain()
    with FastSelector(gated, "random:k=2", mode="gate", seed=3) as selector:
        selector.attach(torch.optim.SGD(selector.trainable_parameters(), lr=0.1))
        for step in range(12):
            plain_loss(gated, step).backward()
            selector.step()
            assert selector.selected() == drawn[step]


def test_rule_may_be_replaced_between_steps():
    model = plain()
    with FastSelector(model, TopK(1), mode="freeze") as selector:
        plain_loss(model).backward()
        selector.step()
        assert len(selector.selected()) == 1
        selector.rule = Fixed([0, 2])
        assert selector.trained() == [0, 2]
        model.zero_grad()
        plain_loss(model).backward()
        selector.step()
        assert selector.selected() == [0, 2]


def test_a_rule_of_ones_own():
    class Even(Rule):
        name = "even"
        uses_scores = False

        def select(self, scores, status):
            return Selection(torch.arange(scores.numel()) % 2 == 0, torch.tensor(math.nan))

        def config(self):
            return {}

    class Broken(Even):
        def select(self, scores, status):
            return Selection(torch.ones(2), torch.tensor(0.0))

    model = plain()
    with FastSelector(model, Even(), mode="observe") as selector:
        plain_loss(model).backward()
        selector.step()
        assert selector.selected() == [0, 2, 4]
        selector.rule = Broken()
        with pytest.raises(LayerSelectError, match="no bool mask of 6 layers"):
            selector.step()


def test_auto_mode():
    assert FastSelector(plain()).mode == "freeze"
    assert FastSelector(torch.compile(plain(), backend="eager")).mode == "gate"
