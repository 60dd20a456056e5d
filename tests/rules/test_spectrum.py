"""The rule ``spectrum``: against the singular values themselves, and on weights whose signal is known."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layerselect import FastSelector, LayerSelectError, make_rule
from layerselect.rules.spectrum import _mean_ranks, signal_to_noise
from torch import nn

from tests.helpers.models import plain


def _oracle(weight: np.ndarray) -> float:
    """By the eigenvalues of the smaller Gram matrix, in float64."""
    gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    values = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))[::-1]
    spread = (np.quantile(values, 0.75) - np.quantile(values, 0.25)) / 1.349
    threshold = spread * (1 + math.sqrt(min(weight.shape) / max(weight.shape)))
    noise = values[values <= threshold].sum()
    return values[values > threshold].sum() / noise / values[0] if noise else math.inf


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(8, 40), columns=st.integers(8, 40), strength=st.floats(0, 20), seed=st.integers(0, 99))
def test_the_ratio_is_that_of_the_definition(rows, columns, strength, seed):
    made = np.random.default_rng(seed)
    weight = made.normal(size=(rows, columns)) + strength * np.outer(made.normal(size=rows), made.normal(size=columns))
    assert signal_to_noise(torch.from_numpy(weight)) == pytest.approx(_oracle(weight), rel=1e-3)


def test_nothing_in_a_matrix_is_no_signal():
    assert signal_to_noise(torch.zeros(4, 4)) == 0.0


@given(st.lists(st.lists(st.floats(0, 10), min_size=2, max_size=2), min_size=1, max_size=8))
def test_ranks_are_between_0_and_1_and_their_mean_is_the_middle(values):
    ranks = _mean_ranks([{"q": a, "v": b} for a, b in values])
    assert all(0 <= rank <= 1 for rank in ranks)
    assert sum(ranks) / len(ranks) == pytest.approx(0.5)


def _with_signal(layers: list[int]) -> nn.Module:
    model = plain(layers=6)
    torch.manual_seed(0)
    for number in layers:
        for parameter in model.blocks[number].parameters():
            if parameter.ndim == 2:
                parameter.data += 3 * torch.outer(torch.randn(len(parameter)), torch.randn(parameter.shape[1]))
    return model


def test_layers_with_signal_are_chosen_and_stay_chosen():
    model = _with_signal([1, 4])
    # The largest value divides the ratio, so signal that stands far above makes it smaller.
    low = make_rule('spectrum:base="topk:k=4"')
    selector = FastSelector(model, low, mode="freeze")
    expected = sorted(
        range(6),
        key=lambda number: _mean_ranks(
            [
                {name: _oracle(p.detach().numpy()) for name, p in block.named_parameters() if p.ndim == 2}
                for block in model.blocks
            ]
        )[number],
    )[2:]
    assert set(low.select(torch.zeros(6), torch.ones(6, dtype=torch.uint8)).mask.nonzero().flatten().tolist()) == set(
        expected
    )
    saved = copy.deepcopy(low.state_dict())
    selector.close()
    other = make_rule('spectrum:base="topk:k=4"')
    FastSelector(plain(layers=6, seed=3), other, mode="freeze").close()
    other.load_state_dict(saved)
    assert other.state_dict()["ranks"] == saved["ranks"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ('match="nothing"', "no pretrained matrix in whose name"),
        ('match="("', "regular expression"),
        ('base="upper"', "no scores"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(options, words):
    with pytest.raises(LayerSelectError, match=words):
        FastSelector(plain(), f"spectrum:{options}")


def test_a_damaged_state_changes_nothing():
    rule = make_rule("spectrum")
    FastSelector(plain(), rule).close()
    before = rule.state_dict()
    with pytest.raises(LayerSelectError, match="ranks"):
        rule.load_state_dict({"ranks": [2.0], "base": {}})
    assert rule.state_dict() == before
