"""``--budget``: what a step of a run may cost, and what is reported of it."""

from __future__ import annotations

import json

import pytest
from layerselect import LayerSelectError
from layerselect.selector.savings import savings_line
from layerselect.tasks.intent import IntentConfig, run_intent

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
        ({"budget": 0.5, "state_cache": "cached", "cut": "2"}, "--budget 0.5: budget=0.5 chooses the cut"),
    ],
)
def test_what_has_no_meaning_is_refused(options, words):
    with pytest.raises(LayerSelectError, match=words):
        IntentConfig(**COMMON, **options)
