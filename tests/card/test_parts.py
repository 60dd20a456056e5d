"""The parts of a measurement by themselves."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from layerselect import LayerSelectError
from layerselect.card import measure
from layerselect.card.coupling import coupling
from layerselect.card.fingerprints import data_fingerprint, model_facts
from layerselect.card.intervals import Contributions, spearman, spearman_interval
from layerselect.card.losses import counted_positions, directions
from layerselect.card.maps import find_maps
from layerselect.card.measure import _divide
from layerselect.card.memory import plan_memory, survey
from layerselect.card.statistics import _BLOCK, Statistics
from layerselect.layers.padding import PaddingMasks
from layerselect.utils.sizes import parse_bytes, show_bytes

from tests.card.batches import texts
from tests.helpers.models import hugging_face, plain


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def curvature(logits: torch.Tensor, likelihood: str) -> torch.Tensor:
    """The second derivative of the loss in the outputs of one example, by autograd; for a softmax or sigmoids it does
    not depend on the label.
    """
    losses = {
        "categorical": lambda z: torch.nn.functional.cross_entropy(z, torch.tensor(0)),
        "binary": lambda z: torch.nn.functional.binary_cross_entropy_with_logits(
            z, torch.zeros(len(z)).to(z), reduction="sum"
        ),
        "gaussian": lambda z: 0.5 * (z**2).sum(),
    }
    return torch.autograd.functional.hessian(losses[likelihood], logits)


@pytest.mark.parametrize("likelihood", ["categorical", "binary", "gaussian"])
def test_enumerated_directions_have_exactly_the_curvature(likelihood):
    logits = torch.randn(5, 4, generator=generator(), dtype=torch.float64)
    found = directions(logits, likelihood, 4, None, generator())
    assert len(found) == 4
    for row in range(5):
        outer = sum(torch.outer(v[row], v[row]) for v in found)
        assert outer == pytest.approx(curvature(logits[row], likelihood), abs=1e-12)


@pytest.mark.parametrize("likelihood", ["categorical", "binary", "gaussian"])
def test_drawn_directions_have_the_curvature_in_the_mean(likelihood):
    logits = torch.tensor([1.0, -0.5, 0.3, 2.0]).expand(40_000, 4)
    (found,) = directions(logits, likelihood, 1, None, generator())
    outer = found.T.double() @ found.double() / len(found)
    assert outer == pytest.approx(curvature(logits[0].double(), likelihood), abs=0.03)
    again = directions(logits, likelihood, 1, None, generator())[0]
    assert torch.equal(found, again) and not torch.equal(
        found, directions(logits, likelihood, 1, None, generator(1))[0]
    )


def test_directions_at_positions_do_not_mix_and_skip_what_does_not_count():
    logits = torch.zeros(2000, 3, 2)
    counted = torch.tensor([True, False, True]).expand(2000, 3)
    found = directions(logits, "gaussian", 2, counted, generator())
    assert len(found) == 2 and all((v[:, 1] == 0).all() for v in found)
    assert abs(float((found[0][:, 0, 0] * found[0][:, 2, 0]).mean())) < 0.1
    assert (found[0][:, 0, 0].abs() == 1).all()


def test_counted_positions_follow_the_model():
    (batch,) = texts(1, padded=True)
    causal, masked = counted_positions(hugging_face("llama"), batch), counted_positions(hugging_face("bert"), batch)
    assert masked.sum() == 30 and causal.sum() == 26  # the first token of each text is not predicted
    assert not causal[:, -1].any()
    assert counted_positions(hugging_face("t5"), batch).sum() == 30
    assert counted_positions(hugging_face("bert"), {**batch, "labels": torch.zeros(4, dtype=torch.long)}) is None


def test_units_give_back_the_sum_of_the_losses():
    from layerselect.card.losses import BatchLoss

    for name in ("llama", "bert", "t5"):
        model, (batch,) = hugging_face(name).eval(), texts(1, padded=True)
        with torch.no_grad():
            total, count = BatchLoss(model)(batch)
        logits, labels = model(**batch).logits.detach(), batch["labels"]
        if name == "llama":
            logits, labels = logits[:, :-1], labels[:, 1:]
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        assert float(total) == pytest.approx(float(expected), rel=1e-5)
        assert count == int((labels != -100).sum())


def test_coupling_by_hand():
    moved = np.array(
        [[1.0, 0.0, 0.0, 1.0], [2.0, 0.0, 0.0, 2.0], [0.0, 1.0, 1.0, 0.0], [0.0] * 4, [-1.0, 0.0, 0.0, 0.0]]
    )
    rho = coupling(moved)
    assert rho[0, 1] == pytest.approx(1.0) and rho[0, 2] == 0.0 and rho[0, 4] == pytest.approx(-math.sqrt(0.5))
    assert (rho[3, :3] == 0).all() and (rho.diagonal() == 1).all() and np.array_equal(rho, rho.T)


def test_jackknife_by_hand():
    drawn = np.random.default_rng(0)
    removed, square = drawn.uniform(1, 2, (7, 2)), drawn.uniform(1, 2, (7, 2))
    units = drawn.integers(3, 9, 7).astype(float)
    low, high = Contributions(removed, square, units).interval()
    for layer in range(2):

        def figure(rows, layer=layer):
            n = units[rows].sum()
            return (removed[rows, layer].sum() / n) / math.sqrt(square[rows, layer].sum() / n)

        whole = figure(list(range(7)))
        parts = [figure([j for j in range(7) if j != i]) for i in range(7)]
        error = math.sqrt(6 / 7 * sum((part - np.mean(parts)) ** 2 for part in parts))
        assert high[layer] - whole == pytest.approx(2.4469118 * error, rel=1e-6)
        assert whole - low[layer] == pytest.approx(2.4469118 * error, rel=1e-6)


def test_spearman():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 25]) == pytest.approx(0.8)
    # Ties get their mean rank, as in scipy.stats.spearmanr([1, 2, 2, 3], [1, 3, 2, 4]).
    assert spearman([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.9486832980505138)
    assert math.isnan(spearman([1, 1], [1, 2]))


@pytest.mark.parametrize(("count", "pearson"), [(6, 0.0), (6, 0.8), (30, 0.0), (30, 0.8)])
def test_the_interval_of_a_rank_correlation_covers_it(count, pearson):
    # Of a normal pair the rank correlation is 6/pi asin(r/2).
    true, drawn = 6 / math.pi * math.asin(pearson / 2), np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        one, noise = drawn.normal(size=(2, count))
        low, high = spearman_interval(spearman(one, pearson * one + math.sqrt(1 - pearson**2) * noise), count)
        hits += low <= true <= high
    assert 0.93 <= hits / 2000 <= 0.98


def test_the_interval_of_equal_orders_is_one():
    low, high = spearman_interval(1.0, 6)
    assert 0.5 < low < 0.8 and high > 0.99
    assert spearman_interval(-1.0, 6) == pytest.approx((-high, -low))
    assert spearman_interval(1.0, 3) == (-1.0, 1.0)
    assert all(map(math.isnan, spearman_interval(float("nan"), 6)))


def test_stability_tells_a_clear_order_from_noise():
    drawn = np.random.default_rng(1)
    clear = np.arange(1, 7) + 0.01 * drawn.standard_normal((12, 6))
    noise = drawn.standard_normal((12, 6))
    ones = np.ones((12, 6))
    assert Contributions(clear, ones, np.ones(12)).stability() > 0.99
    assert Contributions(noise, ones, np.ones(12)).stability() < 0.8
    assert Contributions(clear[:1], ones[:1], np.ones(1)).stability() is None


def test_a_ranking_that_is_not_stable_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING, "layerselect"):
        measure(hugging_face("llama"), texts(1), timed=False)
        assert "no interval" in caplog.text
        caplog.clear()
        measure(hugging_face("llama"), texts(6, examples=1, length=4), timed=False)
    assert "not stable yet" in caplog.text


def test_batches_are_divided_evenly():
    fit, check, held_out = _divide(list(range(12)), 1 / 3)
    assert held_out and check == [1, 4, 7, 10] and sorted(fit + check) == list(range(12))
    assert _divide([1, 2, 3], 0.5) == ([1, 2, 3], [1, 2, 3], False)
    assert _divide(list(range(12)), 0.0)[2] is False


@pytest.mark.parametrize("width", [_BLOCK - 1, _BLOCK, 2 * _BLOCK + 3])
def test_sums_in_blocks_are_those_in_one_piece(width):
    model = torch.nn.Sequential(torch.nn.Linear(width, 2), torch.nn.Identity())
    from layerselect.card.maps import LinearMap

    linear = LinearMap(0, "0", model[0], width, 2)
    statistics = Statistics([linear], [0], PaddingMasks(model, [model[0]]), torch.float64)
    x = torch.randn(9, width, generator=generator())
    with statistics.watching():
        for part in x.split(4):
            model(part).sum().backward()
    statistics.mirror()
    x = x.double()
    assert torch.allclose(statistics.sums[0].gram, x.T @ x, atol=1e-12)
    assert torch.allclose(statistics.sums[0].cross, x.sum(0)[:, None].expand(-1, 2), atol=1e-12)
    assert statistics.sums[0].rows == 9


def test_maps_that_read_one_input_share_its_moments():
    model, (batch,) = hugging_face("llama"), texts(1)
    found = survey(find_maps(model), lambda: model(**batch))
    names = [m.name.rpartition(".")[2] for m in found.layers.maps[0]]
    assert names == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert found.leaders[0] == [0, 0, 0, 3, 4, 4, 6]
    assert found.rows[0] == [36] * 7


def test_memory_is_what_is_allocated():
    model, (batch,) = hugging_face("llama"), texts(1)
    found = survey(find_maps(model), lambda: model(**batch))
    plan = plan_memory(found, 10**9, dtype=torch.float32)
    maps = [m for own in found.layers.maps for m in own]
    leaders = [7 * layer + leader for layer in range(4) for leader in found.leaders[layer]]
    statistics = Statistics(maps, leaders, PaddingMasks(model, []))
    grams = {sums.gram.data_ptr(): sums.gram.nbytes for sums in statistics.sums}
    assert plan.sweeps == [[0, 1, 2, 3]]
    assert plan.statistics == sum(grams.values()) + sum(sums.cross.nbytes for sums in statistics.sums)
    assert plan.peak > plan.statistics
    halves = plan_memory(found, plan.peak - 1, dtype=torch.float32)
    assert (
        len(halves.sweeps) == 2 and [*halves.sweeps[0], *halves.sweeps[1]] == [0, 1, 2, 3] and halves.peak < plan.peak
    )


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("512 MiB", 2**29), ("1.5kb", 1500), (7, 7), ("12", 12)]
)
def test_sizes(text, size):
    assert parse_bytes(text, "max_memory") == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", 0, True, "4XB", None])
def test_bad_sizes(text):
    with pytest.raises(LayerSelectError, match="is no size"):
        parse_bytes(text, "max_memory")


def test_sizes_for_people():
    assert [show_bytes(n) for n in (12, 1500, 4 * 10**9)] == ["12 B", "1.5 KB", "4 GB"]


def test_fingerprints_tell_models_and_data_apart():
    model, other = plain(seed=0), plain(seed=0)
    assert model_facts(model) == model_facts(other)
    with torch.no_grad():
        other.blocks[3][1].weight[0, 0] += 1e-3
    assert model_facts(model)["fingerprint"] != model_facts(other)["fingerprint"]
    wrapped = torch.nn.DataParallel(plain(seed=0))
    assert model_facts(wrapped)["fingerprint"] == model_facts(model)["fingerprint"]
    assert data_fingerprint(texts(2)) == data_fingerprint(texts(2)) != data_fingerprint(texts(3))
    swapped = list(reversed(texts(2)))
    assert data_fingerprint(swapped) != data_fingerprint(texts(2))
