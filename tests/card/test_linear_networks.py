"""Where everything can be solved, a card says what solving says."""

from __future__ import annotations

import math

import pytest
import torch

from tests.card.linear import data, exact_card, feature_maps, losses, orthonormal_rows, parallel, removed


def unlike(layers: int = 3):
    """Layers that overlap in part: other features and other outputs each."""
    return parallel([orthonormal_rows(2, 6, seed) for seed in range(layers)], feature_maps(layers, 7, 4))


def orthogonal():
    """Three layers that move different outputs: six orthonormal rows, two for each."""
    rows = orthonormal_rows(6, 6, 1)
    return parallel([rows[0:2], rows[2:4], rows[4:6]], feature_maps(3, 7, 4))


def duplicated():
    """The first two layers read the same features and move the same outputs."""
    a, c = feature_maps(2, 7, 4)
    b = orthonormal_rows(2, 6, 1)
    return parallel([b, b, orthonormal_rows(2, 6, 2)], [a, a, c])


def test_half_resnorm_squared_is_the_loss_that_fitting_the_layer_alone_removes():
    model, (x, target) = unlike(), data()
    card = exact_card(model, [(x, target)])
    for layer, figures in enumerate(card.layers):
        assert figures.resnorm**2 / 2 == pytest.approx(removed(model, x, target, [layer]), rel=1e-9)
        # On the batches it was fitted to, without a ridge, the check finds the same.
        assert figures.fresh == pytest.approx(figures.resnorm, rel=1e-9)
        assert figures.gain == pytest.approx(figures.resnorm**2 / 2, rel=1e-9)


def test_in_float32_it_is_the_same_to_a_millionth():
    model, (x, target) = unlike(), data()
    card = exact_card(model.float(), [(x.float(), target.float())], dtype=torch.float32)
    for layer, figures in enumerate(card.layers):
        assert figures.resnorm**2 / 2 == pytest.approx(removed(model.double(), x, target, [layer]), rel=2e-6)


def test_orthogonal_layers_are_not_coupled_and_their_gains_add():
    model, (x, target) = orthogonal(), data()
    card = exact_card(model, [(x, target)])
    assert torch.tensor(card.coupling) == pytest.approx(torch.eye(3), abs=1e-9)
    alone = [figures.resnorm**2 / 2 for figures in card.layers]
    together = removed(model, x, target, [0, 1, 2])
    assert sum(alone) == pytest.approx(together, rel=1e-9)
    placer = card.placer()
    for pair in ([0, 1], [0, 2], [1, 2]):
        assert placer.gain(pair) * together == pytest.approx(removed(model, x, target, pair), rel=1e-9)


def test_duplicated_layers_have_coupling_1_and_the_second_adds_nothing():
    model, (x, target) = duplicated(), data()
    card = exact_card(model, [(x, target)])
    assert card.coupling[0][1] == pytest.approx(1.0, abs=1e-9)
    assert removed(model, x, target, [0, 1]) == pytest.approx(removed(model, x, target, [0]), rel=1e-9)
    placer = card.placer()
    assert placer.gain([0, 1]) == pytest.approx(placer.gain([0]), rel=1e-9)
    # The weaker third layer is preferred to the strong one's double.
    chosen = card.place(k=2)
    assert 2 in chosen and len(chosen) == 2
    assert card.place(k=3) == chosen


def test_coupling_is_the_overlap_of_what_the_fits_do_to_the_outputs():
    model, (x, target) = unlike(), data()
    moves = []
    with torch.no_grad():
        error = model(x) - target
        for block in model.blocks:
            features = x @ block.features
            change = torch.linalg.lstsq(features, -error @ block.behind.T).solution
            moves.append((features @ change @ block.behind).reshape(-1))
    expected = torch.stack([a @ b / (a.norm() * b.norm()) for a in moves for b in moves]).reshape(3, 3)
    card = exact_card(model, [(x, target)])
    assert torch.tensor(card.coupling, dtype=torch.float64) == pytest.approx(expected, abs=1e-9)


def test_random_directions_come_near_the_exact_coupling():
    model, (x, target) = unlike(), data(rows=2000)
    exact = torch.tensor(exact_card(model, [(x, target)]).coupling)
    drawn = torch.tensor(exact_card(model, [(x, target)], directions=5).coupling)
    assert (drawn - exact).abs().max() < 0.05
    assert (drawn - exact).abs().max() > 1e-6  # they are drawn


def test_gain_of_a_set_lies_between_the_best_of_it_and_the_truth():
    # One scale for each layer's own fit cannot remove more than the joint fit.
    model, (x, target) = unlike(), data()
    card = exact_card(model, [(x, target)])
    placer, whole = card.placer(), None
    best = max(figures.gain for figures in card.layers)
    whole = best / placer.gain([max(range(3), key=lambda i: card.layers[i].gain)])
    assert best <= whole <= removed(model, x, target, [0, 1, 2]) + 1e-12
    for pair in ([0, 1], [0, 2], [1, 2]):
        assert placer.gain(pair) * whole <= removed(model, x, target, pair) + 1e-12


@pytest.mark.parametrize("factor", [0.1, 7.0])
def test_inputs_times_a_factor(factor):
    model, (x, target) = unlike(), data()
    with torch.no_grad():
        for block in model.blocks:
            block.map.weight.zero_()  # the output stays the same when only the features grow
    before = exact_card(model, [(x, target)], ridge=1e-2)
    for block in model.blocks:
        block.features *= factor
    after = exact_card(model, [(x, target)], ridge=1e-2)
    for one, other in zip(before.layers, after.layers, strict=True):
        assert other.resnorm == pytest.approx(one.resnorm, rel=1e-9)
        assert other.energy == pytest.approx(one.energy * factor**2, rel=1e-9)
        assert other.gradient_norm == pytest.approx(one.gradient_norm * factor, rel=1e-9)
        assert other.condition == pytest.approx(one.condition, rel=1e-4)
    assert torch.tensor(after.coupling) == pytest.approx(torch.tensor(before.coupling), abs=1e-9)


@pytest.mark.parametrize("factor", [0.1, 7.0])
def test_errors_times_a_factor(factor):
    model, (x, target) = unlike(), data()
    with torch.no_grad():
        far = model(x) + factor * (target - model(x))
    before, after = exact_card(model, [(x, target)]), exact_card(model, [(x, far)])
    for one, other in zip(before.layers, after.layers, strict=True):
        assert other.resnorm == pytest.approx(one.resnorm * factor, rel=1e-9)
        assert other.fresh == pytest.approx(one.fresh * factor, rel=1e-9)
        assert other.gradient_norm == pytest.approx(one.gradient_norm * factor, rel=1e-9)
        assert other.energy == pytest.approx(one.energy, rel=1e-12)
    assert torch.tensor(after.coupling) == pytest.approx(torch.tensor(before.coupling), abs=1e-9)


def test_energy_condition_and_gradient_norm_by_their_definitions():
    model, (x, target) = unlike(), data()
    card = exact_card(model, [(x, target)])
    losses(model, (x, target)).mean().backward()
    for block, figures in zip(model.blocks, card.layers, strict=True):
        features = x @ block.features
        sigma = features.T @ features / len(x)
        assert figures.energy == pytest.approx(float(sigma.trace() / len(sigma)), rel=1e-12)
        assert figures.condition == pytest.approx(float(torch.linalg.cond(sigma)), rel=1e-3)
        assert figures.gradient_norm == pytest.approx(float(block.map.weight.grad.norm()), rel=1e-9)


def test_a_ridge_lowers_resnorm_as_its_formula_says():
    model, (x, target) = unlike(), data()
    card = exact_card(model, [(x, target)], ridge=0.5)
    with torch.no_grad():
        error = model(x) - target
        for block, figures in zip(model.blocks, card.layers, strict=True):
            features = x @ block.features
            sigma, cross = features.T @ features / len(x), features.T @ error @ block.behind.T / len(x)
            sigma += 0.5 * sigma.trace() / len(sigma) * torch.eye(len(sigma), dtype=torch.float64)
            assert figures.resnorm**2 == pytest.approx(
                float((cross * torch.linalg.solve(sigma, cross)).sum()), rel=1e-9
            )


@pytest.mark.parametrize("sizes", [[60], [20, 20, 20], [1, 29, 7, 23], [1] * 60])
def test_batches_may_be_cut_anywhere(sizes):
    model, (x, target) = unlike(), data()
    whole = exact_card(model, [(x, target)])
    parts = exact_card(model, list(zip(x.split(sizes), target.split(sizes), strict=True)))
    for one, other in zip(whole.layers, parts.layers, strict=True):
        for name in ("resnorm", "fresh", "gradient_norm", "energy", "condition"):
            assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9), name
    assert torch.tensor(parts.coupling) == pytest.approx(torch.tensor(whole.coupling), abs=1e-9)
    assert (parts.layers[0].low is None) == (len(sizes) == 1)


def test_a_mean_loss_is_taken_for_one_over_examples():
    model, (x, target) = unlike(), data()
    batches = list(zip(x.split([10, 50]), target.split([10, 50]), strict=True))
    each = exact_card(model, batches)
    mean = exact_card(model, batches, loss=lambda model, batch: losses(model, batch).mean())
    assert [a.resnorm for a in mean.layers] == pytest.approx([a.resnorm for a in each.layers], rel=1e-9)


def test_what_was_fitted_to_noise_is_found_out_on_fresh_batches():
    # Targets that have nothing to do with the inputs: the fit finds something, which does not carry over.
    model, (x, target) = unlike(), data(rows=40)
    with torch.no_grad():
        target = model(x) + torch.randn(x.shape[0], 6, dtype=torch.float64)
    batches = list(zip(x.split(2), target.split(2), strict=True))
    card = exact_card(model, batches, check=0.5)
    assert card.held_out
    for figures in card.layers:
        assert figures.resnorm > 0.3
        assert figures.fresh < 0.5 * figures.resnorm
        assert figures.low < figures.fresh < figures.high


def test_sweeps_within_a_memory_bound_find_the_same():
    model, (x, target) = unlike(), data()
    batches = list(zip(x.split(20), target.split(20), strict=True))
    whole = exact_card(model, batches)
    plans = []
    bounded = exact_card(
        model, batches, max_memory=2500, on_event=lambda kind, record: plans.append(record) if kind == "plan" else None
    )
    assert plans[0]["sweeps"] > 1 and plans[0]["peak_bytes"] <= 2500 < whole.settings["memory"]["peak_bytes"]
    for one, other in zip(whole.layers, bounded.layers, strict=True):
        assert other.resnorm == pytest.approx(one.resnorm, rel=1e-9)
        assert other.fresh == pytest.approx(one.fresh, rel=1e-9)
    assert torch.tensor(bounded.coupling) == pytest.approx(torch.tensor(whole.coupling), abs=1e-9)


def test_intervals_cover():
    # The interval of fresh should hold its value on a large sample in most of 60 small ones.
    model, hits = unlike(1), 0
    x, target = data(rows=4000)
    target = target + 0.3 * (x @ torch.ones(7, 6, dtype=torch.float64))
    truth = math.sqrt(2 * removed(model, x, target, [0]))
    for trial in range(60):
        rows = slice(60 * trial, 60 * (trial + 1))
        batches = list(zip(x[rows].split(5), target[rows].split(5), strict=True))
        figures = exact_card(model, batches).layers[0]
        hits += figures.low <= truth <= figures.high
    assert 42 <= hits < 60  # the fit itself is noise too, so it is less than 95 %
