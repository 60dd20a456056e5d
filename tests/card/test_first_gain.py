"""First gains are what really stepping gives, where the loss is a quadratic function of the adapter."""

from __future__ import annotations

import json
from itertools import cycle, islice

import pytest
import torch
from layerselect.card import LayerCard, measure
from layerselect.card.adapt import RATES, adapted
from layerselect.card.first_gain import CURVED, first_gains, gain_along
from layerselect.card.frozen import all_frozen
from layerselect.card.losses import BatchLoss
from layerselect.card.maps import find_maps

from tests.card.batches import texts
from tests.card.linear import data, exact_card, feature_maps, losses, orthonormal_rows, parallel, removed
from tests.card.made import made
from tests.helpers.models import hugging_face

RANK, LR = 2, 1e-3


def network(layers: int = 2):
    return parallel([orthonormal_rows(3, 6, seed) for seed in range(layers)], feature_maps(layers, 7, 4))


def batches(count: int = 1, rows: int = 60):
    x, target = data(rows)
    return list(zip(x.chunk(count), target.chunk(count), strict=True))


def predicted(model, fit, check=None, *, steps=1, loss=losses):
    with all_frozen(model):
        return first_gains(
            find_maps(model).maps,
            BatchLoss(model, loss),
            fit,
            check or fit,
            steps=steps,
            rank=RANK,
            rates={"adamw": LR, "sgd": LR},
        )


def mean_loss(model, batch):
    return losses(model, batch).mean()


def gradient(model, layer, batch):
    """Of the second factor of the adapter on the only map of a layer."""
    with all_frozen(model), adapted(find_maps(model).maps[layer], RANK, 0) as (_, up):
        return torch.autograd.grad(mean_loss(model, batch), up)[0]


def fall(model, layer, batch, move):
    """Of the loss, when the second factor of a layer's adapter is moved by so much."""
    with all_frozen(model), adapted(find_maps(model).maps[layer], RANK, 0) as (_, up), torch.no_grad():
        before = mean_loss(model, batch)
        up += move
        return float(before - mean_loss(model, batch))


@pytest.mark.parametrize(("name", "optimizer"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_one_step_gives_what_the_optimizer_gives(name, optimizer):
    # Without decay, which shrinks the first factor by a hundred-thousandth.
    model, (batch,) = network(), batches()
    found = predicted(model, [batch])
    for layer, maps in enumerate(find_maps(model).maps):
        with all_frozen(model), adapted(maps, RANK, 0) as parameters:
            stepped = optimizer(parameters, lr=LR, weight_decay=0.0)
            before = mean_loss(model, batch)
            before.backward()
            stepped.step()
            fell = (before - mean_loss(model, batch)).item()
        assert found[layer][name].gain == pytest.approx(fell, rel=1e-9)


def test_slopes_are_the_sum_and_the_squares_of_the_gradient():
    model, (batch,) = network(), batches()
    for layer, gains in enumerate(predicted(model, [batch])):
        g = gradient(model, layer, batch)
        assert gains["adamw"].slope == pytest.approx(float(g.abs().sum()), rel=1e-6)  # AdamW's eps
        assert gains["sgd"].slope == pytest.approx(float((g**2).sum()), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_steps_along_the_line_give_what_is_predicted(steps):
    model, (batch,) = network(), batches()
    for layer, gains in enumerate(predicted(model, [batch])):
        g, t = gradient(model, layer, batch), LR * steps
        for name, line in (("adamw", g / (g.abs() + 1e-8)), ("sgd", g)):
            one = gains[name]
            assert t * one.slope - t**2 * one.curvature / 2 == pytest.approx(
                fall(model, layer, batch, -t * line), rel=1e-8
            )


def test_many_steps_stop_where_the_line_is_lowest_and_give_less_than_the_best_fit():
    model, (batch,) = network(), batches()
    for layer, gains in enumerate(predicted(model, [batch], steps=10**6)):
        g = gradient(model, layer, batch)
        for name, line in (("adamw", g.sign()), ("sgd", g)):
            one = gains[name]
            best = one.slope / one.curvature
            around = [fall(model, layer, batch, -best * share * line) for share in (0.9, 1.0, 1.1)]
            assert one.gain == pytest.approx(around[1], rel=1e-6) and around[1] == max(around)
            assert 0 < one.gain < removed(model, *batch, [layer])


@pytest.mark.parametrize(
    ("slope", "curvature", "gain"),
    [
        (2.0, 0.0, 2.0),  # straight down to the last of 10 steps of 0.1
        (2.0, -1.0, 2.5),  # ever steeper
        (2.0, 1.0, 1.5),  # lowest behind the last step
        (2.0, 4.0, 0.5),  # lowest at 0.5
        (2.0, 40.0, 0.0),  # lowest at half a step: one step comes out as high as it began
        (-2.0, 4.0, -0.22),  # upwards from the first step
        (-2.0, -400.0, 1.8),  # the first step goes over the top
        (0.0, 0.0, 0.0),
    ],
)
def test_the_best_number_of_steps(slope, curvature, gain):
    assert gain_along(slope, curvature, 0.1, 10) == pytest.approx(gain, abs=1e-12)


def test_adamw_moves_by_the_mean_over_the_root_mean_square_where_batches_disagree():
    given = torch.tensor([[1.0, 3.0, -2.0, 5.0], [1.0, -1.0, 2.0, 5.0], [1.0, 1.0, 0.5, -9.0]], dtype=torch.float64)
    parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer, steps = torch.optim.AdamW([parameter], lr=LR, weight_decay=0.0), 3000
    for gradient in islice(cycle(given), steps):
        parameter.grad = gradient.clone()
        optimizer.step()
    moved = -parameter.detach() / (LR * steps)
    assert torch.allclose(moved, given.mean(dim=0) / (given**2).mean(dim=0).sqrt(), atol=0.02)


def test_where_batches_disagree_adamw_gets_less_than_the_sum_of_the_gradient():
    model, parts = network(), batches(10)
    whole = (torch.cat([x for x, _ in parts]), torch.cat([target for _, target in parts]))
    for layer, gains in enumerate(predicted(model, parts)):
        each = torch.stack([gradient(model, layer, part) for part in parts])
        mean, g = each.mean(dim=0), gradient(model, layer, whole)
        assert torch.allclose(mean, g)
        expected = float((g * mean / (each**2).mean(dim=0).sqrt()).sum())
        assert gains["adamw"].slope == pytest.approx(expected, rel=1e-6)
        assert expected < 0.9 * float(g.abs().sum())


def test_what_was_found_in_noise_is_not_there_on_other_batches():
    model, (x, target) = network(1), data(600)
    with torch.no_grad():
        target = model(x) + torch.randn(600, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    parts = list(zip(x.chunk(30), target.chunk(30), strict=True))
    same = [gains["adamw"].slope for gains in predicted(model, parts[:3])]
    other = [gains["adamw"].slope for gains in predicted(model, parts[:3], parts[3:])]
    assert same[0] > 0 and abs(other[0]) < 0.5 * same[0]


def test_the_first_factor_adds_its_part_in_the_second_order():
    # Steps of the size of the learning rate on both factors of a loss <G, A B>, beside steps on B alone.
    generator = torch.Generator().manual_seed(0)
    weight, drawn = (torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (4, 2))
    u, steps, lr = (drawn.T @ weight).sign(), 1000, 1e-6
    a, b = drawn.clone(), torch.zeros(2, 4, dtype=torch.float64)
    for _ in range(steps):
        down, up = weight @ b.T, a.T @ weight
        a, b = a - lr * down.sign(), b - lr * up.sign()
    t = lr * steps
    gained = -float((weight * (a @ b)).sum()) - t * float((drawn.T @ weight).abs().sum())
    assert gained == pytest.approx(t**2 * float((weight @ u.T).abs().sum()), rel=5e-3)


def test_what_it_costs_in_passes():
    model, fit, check = network(3), batches(4), batches(20)
    passes = []

    def counted(model, batch):
        passes.append(batch)
        return losses(model, batch)

    predicted(model, fit, check, loss=counted)
    assert len(passes) == 4 + 20 + CURVED + 3 * 2 * CURVED


def test_a_card_holds_them_and_a_card_of_the_first_version_has_none(tmp_path):
    model, parts = network(), batches(6)
    card = exact_card(model, parts, gain_steps=5, rank=RANK)
    with all_frozen(model):
        loss = BatchLoss(model, losses)
        direct = first_gains(find_maps(model).maps, loss, parts, parts, steps=5, rank=RANK, rates=RATES)
    assert [(layer.adamw, layer.sgd) for layer in card.layers] == [(one["adamw"], one["sgd"]) for one in direct]
    path = card.save(tmp_path)
    assert LayerCard.load(path) == card
    assert exact_card(model, parts).layers[0].adamw is None

    old = made([3.0, 0.1, 2.0])
    values = json.loads(json.dumps(old.to_dict()))
    values["version"] = 1
    for layer in values["layers"]:
        del layer["adamw"], layer["sgd"]
    assert LayerCard.from_dict(values) == old


def test_they_are_measured_of_a_language_model_and_the_rate_of_its_optimizer_counts():
    options = {"timed": False, "check": 0.0, "rank": 2, "adapt_optimizer": "sgd", "adapt_lr": 1e-2}
    card = measure(hugging_face("llama"), texts(4), gain_steps=3, adapt_steps=1, **options)
    for layer in card.layers:
        assert layer.adamw.slope > layer.sgd.slope > 0
        distance = 3e-2
        assert layer.sgd.gain == pytest.approx(distance * layer.sgd.slope - distance**2 * layer.sgd.curvature / 2)
    other = measure(hugging_face("llama"), texts(4), adapt_steps=1, **{**options, "adapt_optimizer": "adamw"})
    assert [layer.performance for layer in other.layers] != [layer.performance for layer in card.layers]
