"""What callers give that is no tensor, number or text: one sentence that names it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.ops import segment_sqnorm, variance_split
from torch import nn

from tests.helpers.models import plain

NO_VECTORS = {
    "list": [1.0, 2.0],
    "none": None,
    "text": "abc",
    "array": np.ones(3),
    "number": 3.0,
    "meta": torch.ones(3, device="meta"),
    "sparse": torch.eye(3).to_sparse(),
    "compressed": torch.eye(3).to_sparse_csr(),
    "mkldnn": torch.ones(3).to_mkldnn(),
    "complex": torch.ones(3, dtype=torch.complex64),
    "whole": torch.ones(3).long(),
    "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    "quantised": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
}
HUGE = 10**400


def sentence(call) -> str:
    with pytest.raises(LayerSelectError) as refusal:
        call()
    said = str(refusal.value)
    assert said and "\n" not in said and len(said) < 400
    return said


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("kind", NO_VECTORS)
def test_what_is_no_tensor_is_not_measured(kind, backend):
    value = NO_VECTORS[kind]
    if value is not None:  # which counts nothing
        assert "tensors[0]" in sentence(lambda: segment_sqnorm([value], [0], 1, backend=backend))
    assert "scores must be a floating point vector" in sentence(lambda: variance_split(value, backend=backend))


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"tensors": None}, "tensors"),
        ({"tensors": "ab"}, "tensors"),
        ({"tensors": 3}, "tensors"),
        ({"tensors": {}}, "tensors"),
        ({"tensors": torch.tensor(1.0)}, "tensors"),
        ({"segments": None}, "segments"),
        ({"segments": ["a"]}, "segments"),
        ({"segments": [10**30]}, "segments"),
        ({"segments": torch.zeros(1, device="meta")}, "segments"),
        ({"segments": [[0]]}, "segments"),
        ({"num_segments": None}, "num_segments"),
        ({"num_segments": "1"}, "num_segments"),
        ({"num_segments": 1.5}, "num_segments"),
        ({"num_segments": 10**12}, "num_segments"),
        ({"num_segments": HUGE}, "num_segments"),
        ({"num_segments": -1}, "num_segments"),
        ({"inv_scale": "1"}, "inv_scale"),
        ({"inv_scale": HUGE}, "inv_scale"),
        ({"inv_scale": [1.0]}, "inv_scale"),
        ({"backend": None}, "backend"),
        ({"backend": ["native"]}, "backend"),
    ],
)
def test_wrong_arguments_of_the_norm_pass(change, name, backend):
    given = {"tensors": [torch.ones(3)], "segments": [0], "num_segments": 1, "backend": backend, **change}
    assert name in sentence(lambda: segment_sqnorm(**given))


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize(
    "change",
    [
        {"window": None},
        {"window": 0.3},
        {"window": (0.3,)},
        {"window": ("a", "b")},
        {"window": (0, HUGE)},
        {"window": (0, 0.5, 1)},
        {"window": (float("nan"), 1.0)},
        {"splits": None},
        {"splits": "2"},
        {"splits": 1.5},
        {"splits": HUGE},
        {"splits": 0},
    ],
)
def test_wrong_arguments_of_the_variance_rule(change, backend):
    assert next(iter(change)) in sentence(lambda: variance_split(torch.rand(4), backend=backend, **change))


def test_what_was_right_is_right():
    tensors = (t for t in [torch.ones(3), None, torch.ones(2, 2, dtype=torch.bfloat16)])
    assert segment_sqnorm(tensors, np.array([0, 0, 1]), np.int64(2), inv_scale=np.float32(2.0)).tolist() == [12.0, 16.0]
    assert variance_split(torch.tensor([1.0, 1.0, 5.0, 5.0]), window=[0, 1], splits=np.int64(1))[0].tolist() == [
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize(
    "option",
    [
        "score",
        "mode",
        "on_freeze",
        "capture",
        "backend",
        "state_cache",
        "interval",
        "warmup",
        "probe_every",
        "lag",
        "history",
        "layers",
        "rule",
        "seed",
    ],
)
@pytest.mark.parametrize(
    "value", [[1.0], {"a": 1}, np.ones(3), torch.ones(2, 2), NO_VECTORS["nested"], 1.5, b"x", -HUGE]
)
def test_options_of_a_selector_that_are_none(option, value):
    given = {"rule": "random:k=2", option: value}
    sentence(lambda: FastSelector(plain(), **given))


@pytest.mark.parametrize("option", ["lag", "seed", "interval", "warmup", "probe_every"])
def test_numbers_at_absurd_sizes(option):
    assert option in sentence(lambda: FastSelector(plain(), "random:k=2", mode="freeze", **{option: HUGE}))


@pytest.mark.parametrize("kind", ["meta", "sparse", "compressed", "mkldnn", "complex", "nested"])
def test_parameters_whose_gradients_cannot_be_measured(kind):
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    model[1].weight = nn.Parameter(NO_VECTORS[kind])
    assert "'1.weight'" in sentence(lambda: FastSelector(model))
    model[1].requires_grad_(False)
    if kind != "nested":  # whose size nothing can be told of
        FastSelector(model).close()


@pytest.mark.parametrize(
    "rule",
    [
        "topk:k=" + "9" * 5000,
        "variance:window=" + "[" * 3000 + "]" * 3000,
        "random:seed=" + "9" * 23,
        "topk:k=\u00b2",
        "random:k=1e400",
    ],
)
def test_rules_with_values_that_nobody_meant(rule):
    sentence(lambda: FastSelector(plain(), rule))
