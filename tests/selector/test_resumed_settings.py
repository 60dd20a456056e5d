"""A run that is resumed with other settings says so, and goes on."""

from __future__ import annotations

import logging

import pytest
from layerselect import CostAware, FastSelector, LayerSelectError, TopK
from layerselect.checkpoint import load_selector, save_selector

from tests.helpers.models import plain, plain_loss

SAVED = {"rule": "topk:k=2", "mode": "gate", "interval": 1, "warmup": 0, "probe_every": 20, "capture": "backward"}


def saved(folder, **options):
    model = plain()
    with FastSelector(model, **{**SAVED, **options}) as selector:
        for step in range(3):
            plain_loss(model, step).backward()
            selector.step()
            model.zero_grad()
        save_selector(selector, folder)
        return selector.state_dict()


def resumed(folder, caplog, **options):
    """What is said when the run goes on."""
    model = plain()
    caplog.clear()
    with (
        caplog.at_level(logging.WARNING, logger="layerselect"),
        FastSelector(model, **{**SAVED, **options}) as selector,
    ):
        load_selector(selector, folder)
        assert selector.steps == 3
        plain_loss(model, 3).backward()
        selector.step()
        assert selector.steps == 4
    return [r.getMessage() for r in caplog.records if "other settings" in r.getMessage()]


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"rule": "topk:k=3"}, "topk:k 2 -> 3"),
        ({"mode": "observe"}, "mode 'gate' -> 'observe'"),
        ({"mode": "freeze"}, "mode 'gate' -> 'freeze'"),
        ({"interval": 4}, "interval 1 -> 4"),
        ({"warmup": 9}, "warmup 0 -> 9"),
        ({"probe_every": 5}, "probe_every 20 -> 5"),
        ({"capture": "step"}, "capture 'backward' -> 'step'"),
        ({"rule": "topk:k=1", "interval": 2}, "topk:k 2 -> 1, interval 1 -> 2"),
    ],
)
def test_each_change_is_said_once(tmp_path, caplog, options, change):
    saved(tmp_path)
    assert resumed(tmp_path, caplog) == []
    said = resumed(tmp_path, caplog, **options)
    assert len(said) == 1 and said[0].endswith(f"(saved -> now): {change}")


def test_a_budget_and_a_base_are_options_too(tmp_path, caplog):
    saved(tmp_path, rule=CostAware(budget=0.9, base=TopK(2)))
    assert resumed(tmp_path, caplog, rule=CostAware(budget=0.9, base=TopK(2))) == []
    (said,) = resumed(tmp_path, caplog, rule=CostAware(budget=0.8, base=TopK(3)))
    assert "budget 0.9 -> 0.8" in said and "'k': 2" in said and "'k': 3" in said


def test_lists_come_back_from_json_as_they_were(tmp_path, caplog):
    saved(tmp_path, rule="fixed:layers=[0,1]")
    assert resumed(tmp_path, caplog, rule="fixed:layers=[0,1]") == []
    assert resumed(tmp_path, caplog, rule="fixed:layers=[0,2]")


def test_a_state_of_an_earlier_release_is_read(caplog, tmp_path):
    state = saved(tmp_path)
    del state["settings"]
    model = plain()
    with (
        caplog.at_level(logging.WARNING, logger="layerselect"),
        FastSelector(model, "topk:k=2", mode="observe") as selector,
    ):
        selector.load_state_dict(state)
    assert not [r for r in caplog.records if "other settings" in r.getMessage()]


def test_another_rule_is_refused_as_before(tmp_path):
    saved(tmp_path)
    with pytest.raises(LayerSelectError, match="saved with rule 'topk'"), FastSelector(plain(), "all") as selector:
        load_selector(selector, tmp_path)
