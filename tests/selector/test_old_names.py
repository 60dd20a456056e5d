"""Arguments under the names of earlier versions: taken with a warning, wherever a selector is asked for."""

from __future__ import annotations

import inspect
import pickle
import warnings

import pytest
from layerselect import FastSelector, Ist, make_rule
from layerselect.integrations.transformers import SelectorCallback
from layerselect.state_cache import StateStore

from tests.helpers.models import hugging_face, plain


def test_a_selector_takes_them():
    with (
        StateStore() as store,
        pytest.warns(FutureWarning, match=r"FastSelector: trunk= is called state_cache= now") as seen,
        FastSelector(hugging_face("llama"), "all", mode="freeze", cut=1, trunk="cached", trunk_store=store) as selector,
    ):
        assert selector.state_cache is not None and selector.cut == 1
    assert all(warning.filename == __file__ for warning in seen)


def test_a_callback_takes_them():
    with pytest.warns(FutureWarning, match=r"SelectorCallback: trunk= is called state_cache= now"):
        callback = SelectorCallback(rule="all", mode="freeze", trunk="none")
    assert callback._options["state_cache"] == "none"


def test_an_argument_is_given_once():
    with pytest.raises(TypeError, match="trunk= is the old name of state_cache=: give one of them"):
        FastSelector(plain(), trunk="none", state_cache="none")


def test_the_signature_has_the_new_names_alone():
    names = inspect.signature(FastSelector).parameters
    assert "state_cache" in names and "trunk" not in names


def test_the_new_names_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FastSelector(plain(), state_cache="none").close()


def test_what_is_ablation_now():
    import layerselect

    with pytest.warns(FutureWarning, match=r"layerselect\.SuppressionProbe is called Ablation now"):
        assert layerselect.SuppressionProbe is layerselect.Ablation
    with pytest.warns(FutureWarning, match=r"rule 'ist': probes= is called ablations= now"):
        rule = make_rule("ist:probes=4")
    with pytest.warns(FutureWarning, match=r"Ist: probes= is called ablations= now"):
        assert Ist(probes=4).ablations == rule.ablations == 4
    with pytest.warns(FutureWarning, match="attribute probe is called ablation now"):
        rule.probe = float
    assert rule.ablation is rule.probe is float
    copied = pickle.loads(pickle.dumps(rule))
    assert copied.ablations == 4
