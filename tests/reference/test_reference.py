"""The plain-PyTorch twins against answers worked by hand: they are the oracle of the other tests."""

from __future__ import annotations

import math

import pytest
import torch
from layerselect import reference
from layerselect.reference.selection import EXCLUDED, MEASURED, NEVER_MEASURED
from torch import nn


def status(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8)


def test_segment_sqnorm():
    tensors = [torch.tensor([3.0, 4.0]), None, torch.tensor([[1.0, 2.0], [2.0, 4.0]]), torch.tensor(0.5).half()]
    sums = reference.segment_sqnorm(tensors, torch.tensor([2, 0, 0, 2]), 3)
    assert sums.dtype == torch.float64 and sums.tolist() == [25.0, 0.0, 25.25]
    scaled = reference.segment_sqnorm(tensors, torch.tensor([2, 0, 0, 2]), 3, inv_scale=0.5)
    assert scaled.tolist() == [6.25, 0.0, 6.3125]


def test_segment_sqnorm_widens_before_it_squares():
    # 300^2 overflows float16 and 1e-30^2 underflows float32.
    sums = reference.segment_sqnorm([torch.full((2,), 300.0).half(), torch.full((2,), 1e-30)], torch.tensor([0, 1]), 2)
    assert sums[0] == 180000 and sums[1] == pytest.approx(2e-60, rel=1e-6)


def test_variance_split_by_hand():
    # Ascending 1 2 6 7 8, m = 5: the window (0.2, 0.8) keeps k - 1 in [1, 4], so k in 2..4.
    # cost(2) = 1/4 + 2/3; cost(3) = 14/3 + 1/4; cost(4) = 6.5 + 0.
    scores = torch.tensor([7.0, 1.0, 8.0, 2.0, 6.0])
    mask, threshold = reference.variance_split(scores, status(1, 1, 1, 1, 1), 0.2, 0.8, True, 1)
    assert mask.tolist() == [True, False, True, True, True] and threshold == 2
    mask, threshold = reference.variance_split(scores, status(1, 1, 1, 1, 1), 0.2, 0.8, False, 1)
    assert mask.tolist() == [True, False, True, False, True] and threshold == 2


def test_variance_split_and_layers_without_a_score():
    scores = torch.tensor([1.0, math.nan, 9.0, math.inf, 2.0, 10.0])
    states = status(MEASURED, NEVER_MEASURED, MEASURED, EXCLUDED, MEASURED, MEASURED)
    # The rule sees 1 2 9 10: cut after two.
    mask, threshold = reference.variance_split(scores, states, 0.0, 1.0, False, 1)
    assert mask.tolist() == [False, True, True, False, False, True] and threshold == 2
    # Nobody measured: only those never measured, and no threshold.
    mask, threshold = reference.variance_split(scores, status(0, 2, 0, 0, 2, 0), 0.35, 0.65, True, 1)
    assert mask.tolist() == [False, True, False, False, True, False] and math.isnan(threshold)
    # One measured: it is selected.
    mask, threshold = reference.variance_split(scores, status(1, 0, 0, 0, 2, 0), 0.35, 0.65, False, 2)
    assert mask.tolist() == [True, False, False, False, True, False] and threshold == 1


def test_top_ranked_by_hand():
    scores = torch.tensor([5.0, 3.0, math.nan, 5.0, math.inf])
    states = status(MEASURED, MEASURED, NEVER_MEASURED, MEASURED, EXCLUDED)
    # Ascending: layer 1, then 0 before 3 (equal scores keep layer order), then 2.
    for k, expected, gamma in [
        (0, [], math.nan),
        (1, [2], math.nan),
        (2, [2, 3], 5),
        (3, [0, 2, 3], 5),
        (9, [0, 1, 2, 3], 3),
    ]:
        mask, threshold = reference.top_ranked(scores, states, k)
        assert mask.nonzero().flatten().tolist() == expected
        assert threshold == gamma or (math.isnan(gamma) and math.isnan(threshold))
    # Among layers never measured the later ones rank higher.
    mask, _ = reference.top_ranked(scores, status(2, 2, 2, 1, 0), 2)
    assert mask.nonzero().flatten().tolist() == [1, 2]


def test_above_by_hand():
    scores = torch.tensor([5.0, 3.0, math.nan, 4.0, 9.0])
    mask, threshold = reference.above(scores, status(1, 1, 2, 1, 0), 4.0)
    assert mask.tolist() == [True, False, True, True, False] and threshold == 4


def test_gradient_monitor_by_hand():
    a, b, c = (nn.Parameter(torch.tensor([float(x)])) for x in (1, 2, 3))
    monitor = reference.GradientMonitor([a, b, c], [0, 0, 1], 3)
    (3 * a + 4 * b).backward()
    assert monitor.sqnorms.tolist() == [9, 16, 0]
    assert monitor.finish() == [0] and monitor.computed_in_backward == 1
    (a + 2 * c).backward()
    assert monitor.finish() == [0, 1] and monitor.sqnorms.tolist() == [16, 16, 4]
    monitor.close()
    (a + b + c).backward()
    assert monitor.sqnorms.tolist() == [16, 16, 4]
