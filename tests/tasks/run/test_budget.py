"""``--budget``: what a step of a run may cost, and what is reported of it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
from layerselect import LayerSelectError
from layerselect.cli.main import main
from layerselect.selector.savings import savings_line
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.tasks.revise.config import ReviseConfig

COMMON = {"data": "demo", "model": "demo", "out": "o"}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"rule": "all"},
        {"state_cache": "cached", "state_cache_store": "none", "rule": "all"},
    ],
)
def test_a_run_keeps_to_its_budget_and_says_what_it_reached(tmp_path, few, bert_folder, more):
    settings = {"data": str(few), "model": str(bert_folder), "out": str(tmp_path / "o"), "device": "cpu", "epochs": 3}
    result = run_intent(IntentConfig(**settings, budget=0.8, probe_every=0, batch_size=4, **more))
    facts = json.loads((result.folder / "results.json").read_text())["training"]
    rows = json.loads((result.folder / "importance.json").read_text())
    assert facts["budget"] == 0.8 and facts["step_share"] < 1
    assert ", budget 80%)" in savings_line(facts)
    assert sum(rows["frequency"]) > 0
    if "rule" in more:
        assert rows["frequency"][0] == 0 and rows["frequency"][-1] > 0  # the lowest layer does not fit


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": 0.0}, "--budget 0.0 must be above 0"),
        ({"budget": 1.5}, "--budget 1.5: budget=1.5 is not in"),
        ({"budget": 0.5, "rule": "cost-aware"}, "--budget 0.5: budget=0.5 beside rule 'cost-aware'"),
        ({"state_cache": "budget"}, "--state-cache budget says nothing without --budget"),
        ({"budget": 0.5, "state_cache": "budget", "mode": "gate"}, "needs --mode auto or freeze, not gate"),
        ({"budget": 0.5, "state_cache": "cached", "cut": "2"}, "--budget 0.5: budget=0.5 chooses the cut"),
    ],
)
def test_what_has_no_meaning_is_refused(options, words):
    with pytest.raises(LayerSelectError, match=words):
        IntentConfig(**COMMON, **options)


def _facts(folder) -> dict:
    return json.loads((folder / "results.json").read_text())["training"]


def _saved(folder) -> dict:
    return json.loads((folder / "config.json").read_text())["settings"]


def test_beside_a_budget_states_are_cached_where_they_can_be(tmp_path, few, bert_folder):
    settings = [
        "--data",
        str(few),
        "--model",
        str(bert_folder),
        "--device",
        "cpu",
        "--epochs",
        "2",
        "--batch-size",
        "4",
    ]
    typed = ["intent", *settings, "--rule", "all", "--budget", "0.8"]
    for name, more in (("default", []), ("none", ["--state-cache", "none"]), ("gate", ["--mode", "gate"])):
        assert main([*typed, *more, "--out", str(tmp_path / name)]) == 0
    cached, plain = _facts(tmp_path / "default"), _facts(tmp_path / "none")
    assert cached["states_cached"] and cached["cut"] >= 1 and cached["states_read"] > 0
    assert cached["states_written_mb"] == 0  # nothing is left on the disk by an option that speaks of time
    assert "cut" not in plain and "cut" not in _facts(tmp_path / "gate")
    kept = ["--state-cache-store", str(tmp_path / "states"), "--state-cache-precision", "half"]
    assert main([*typed, *kept, "--state-cache-memory", "1GB", "--out", str(tmp_path / "kept")]) == 0
    assert _facts(tmp_path / "kept")["states_written_mb"] > 0 and any((tmp_path / "states").iterdir())
    # What is saved by not running the layers below buys more layers for the same cost.
    assert cached["step_share"] <= 0.8 and cached["trained_parameters"] >= plain["trained_parameters"]
    assert (
        _saved(tmp_path / "default")["state_cache"] == "budget" and _saved(tmp_path / "none")["state_cache"] == "none"
    )


@pytest.mark.parametrize("more", [{}, {"state_cache_store": "none", "state_cache_precision": "half"}])
def test_a_model_whose_states_cannot_be_cached_keeps_to_its_budget_all_the_same(tmp_path, caplog, more):
    """The demo's embeddings train, and they stand below every cut."""
    with caplog.at_level(logging.INFO, logger="layerselect"):
        result = run_intent(
            IntentConfig(
                data="demo",
                model="demo",
                out=str(tmp_path / "o"),
                device="cpu",
                max_steps=2,
                budget=0.9,
                state_cache="budget",
                **more,
            )
        )
    assert "no hidden states are cached to keep to the budget: " in caplog.text
    assert "cut" not in _facts(result.folder) and _facts(result.folder)["budget"] == 0.9


def test_a_budget_is_that_of_the_writer_and_not_of_its_predictor():
    config = ReviseConfig(**COMMON, transfer="shared", budget=0.5, state_cache="budget")
    assert config.predictor_config("p").state_cache == "none" and config.predictor_config("p").budget is None
    kept = replace(config, state_cache_store="states", state_cache_memory="1GB", state_cache_precision="half")
    assert kept.predictor_config("p") == config.predictor_config("p")
