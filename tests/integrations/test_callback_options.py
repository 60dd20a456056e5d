"""A wrong argument of SelectorCallback is refused when the callback is made, as a keyword and in the mapping."""

from __future__ import annotations

import inspect

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.integrations.selector_options import NAMES
from layerselect.integrations.transformers import SelectorCallback
from layerselect.rules import TopK

from tests.helpers.models import plain

#: For each argument of a selector values that none takes.
WRONG = {
    "rule": ["varience", "topk:n=3", "topk:k=zwei", None, 3, TopK],
    "budget": [0, -1, 1.5, True, "half", float("nan")],
    "layers": [3, [0, 1], [], "model.layers.("],
    "score": ["l1", None, 2],
    "mode": ["frozen", None, True],
    "interval": [0, 1.5, "2", True],
    "warmup": [-1, 0.1, None],
    "probe_every": [-1, "20"],
    "lag": [-1, 0.5, True],
    "on_freeze": ["forget", None],
    "capture": ["forward", 1],
    "backend": ["triton", 0],
    "seed": [None, 1.5, "0"],
    "state_cache": ["keep", True],
    "cut": [-2, "-2", None, 0.5, "topk:n=3", "cost-awar"],
    "state_cache_store": ["states", 1],
    "history": [-1, 1.5, None, True],
}
BOTH = pytest.mark.parametrize("form", ["keywords", "mapping"])


def make(form, **options):
    return SelectorCallback(options) if form == "mapping" else SelectorCallback(**options)


def test_every_argument_of_a_selector_is_checked():
    assert set(WRONG) == set(NAMES) == set(inspect.signature(FastSelector).parameters) - {"model"}


@BOTH
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_refused(form, name, value):
    with pytest.raises(LayerSelectError) as refusal:
        make(form, **{name: value})
    assert name in str(refusal.value) and "\n" not in str(refusal.value)


@BOTH
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"probe_evry": 3}, "no option 'probe_evry': did you mean 'probe_every'?"),
        ({"warmup_steps": 3}, "did you mean 'warmup'?"),
        ({"rules": "all"}, "did you mean 'rule'?"),
        ({"gradient": 1}, "it has rule, budget, layers, score"),
        ({"rule": "topk", "k": 2}, "it is one of the rule, which is given with it: rule='topk:k=...'"),
        ({"model": None}, "the model is the Trainer's"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(form, options, sentence):
    with pytest.raises(LayerSelectError) as refusal:
        make(form, **options)
    assert sentence in str(refusal.value)


@BOTH
@pytest.mark.parametrize(
    "options",
    [
        {"mode": "gate", "on_freeze": "reset"},
        {"mode": "observe", "state_cache": "cached"},
    ],
)
def test_what_has_no_meaning_together_is_refused(form, options):
    with pytest.raises(LayerSelectError, match="mode"):
        make(form, **options)


@pytest.mark.parametrize("given", ["topk:k=2", TopK(k=2), plain(), 2, ["rule"]], ids=str)
def test_what_is_neither_a_selector_nor_its_arguments_is_refused(given):
    with pytest.raises(LayerSelectError, match=r"write SelectorCallback\(rule="):
        SelectorCallback(given)


def test_an_argument_given_twice_is_refused():
    with pytest.raises(LayerSelectError, match="'rule'.* are given twice"):
        SelectorCallback({"rule": "all"}, rule="topk:k=1")


@pytest.mark.parametrize("name", ["log_scores", "resume"])
def test_the_callbacks_own_arguments_are_no_options(name):
    with pytest.raises(LayerSelectError, match=f"{name}= is an argument of SelectorCallback itself"):
        SelectorCallback({name: True})


@pytest.mark.parametrize("value", ["new", None, True, "Fresh"])
def test_a_wrong_resume_is_refused(value):
    with pytest.raises(LayerSelectError, match="resume=.* is none of 'refuse', 'fresh'"):
        SelectorCallback(resume=value)


@BOTH
def test_what_a_selector_takes_is_taken(form):
    """What the checks accept builds a selector."""
    options = {
        "rule": "topk:k=2",
        "budget": 0.9,
        "layers": r"blocks\.\d+",
        "score": "rms",
        "mode": "freeze",
        "interval": 2,
        "warmup": 1,
        "probe_every": 0,
        "lag": None,
        "on_freeze": "reset",
        "capture": "step",
        "backend": "torch",
        "seed": 7,
        "state_cache": "none",
        "cut": "3",
        "state_cache_store": None,
        "history": 16,
    }
    assert set(options) == set(NAMES)
    callback = make(form, **options)
    assert callback.selector is None
    with FastSelector(plain(), **options) as selector:
        assert selector.num_layers == 6


def test_making_a_callback_draws_no_random_number():
    state = torch.get_rng_state()
    for rule in ("random:k=2", "lisa", "ist"):
        SelectorCallback(rule=rule)
    assert torch.equal(torch.get_rng_state(), state)
