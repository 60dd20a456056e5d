"""The plugin of axolotl, with a stand-in for axolotl's base class that has its methods; the real one runs in
``make frameworks``.
"""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from layerselect import LayerSelectError
from layerselect.integrations.plugin_options import KEYS

from .trainers import build

pydantic = pytest.importorskip("pydantic")  # comes with axolotl

NAME = "layerselect.integrations.axolotl"


class StandIn:
    """The methods of axolotl 0.19.0's BasePlugin that are of interest here, with its arguments."""

    def register(self, cfg):
        """Called with the configuration as it was read, before anything is checked."""

    def get_input_args(self):
        """The dotted path of a pydantic model."""

    def add_callbacks_pre_trainer(self, cfg, model):
        return []

    def add_callbacks_post_trainer(self, cfg, trainer):
        return []


@pytest.fixture
def ours(monkeypatch):
    for name in ("axolotl", "axolotl.integrations", "axolotl.integrations.base"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["axolotl.integrations.base"].BasePlugin = StandIn
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    yield importlib.import_module(NAME)
    sys.modules.pop(NAME, None)


def test_the_keys_join_those_of_axolotl(ours):
    """axolotl makes a class of its own model and those that plugins name, and keeps what that has."""
    module, _, name = ours.LayerSelectPlugin().get_input_args().rpartition(".")
    keys = getattr(importlib.import_module(module), name)
    assert tuple(keys.model_fields) == KEYS

    class Theirs(pydantic.BaseModel):
        base_model: str

    class Joined(Theirs, keys):
        pass

    given = {"base_model": "m", "layerselect_rule": "all", "layerselect_options": {"probe_every": 5, "layers": ["a"]}}
    kept = Joined(**given, nobodys=1).model_dump(exclude_none=True)
    assert kept == given


def test_a_trainer_of_axolotl_selects_and_the_log_says_so(ours, tmp_path, caplog):
    cfg = {"plugins": [f"{NAME}.LayerSelectPlugin"], "layerselect_rule": "upper:p=0.5", "layerselect_mode": "freeze"}
    cfg["layerselect_options"] = {"resume": "fresh"}
    plugin = ours.LayerSelectPlugin()
    plugin.register(cfg)
    (callback,) = plugin.add_callbacks_pre_trainer(cfg, None)
    trainer = build(tmp_path, callback, max_steps=3, save_strategy="no")
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    with caplog.at_level(logging.INFO, "axolotl"):
        trainer.train()
    half = trainer.model.config.num_hidden_layers // 2
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved and all(any(f"layers.{layer}." in name for layer in range(half, 2 * half)) for name in moved)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("axolotl.")]
    assert "3 steps in mode freeze" in said[0] and "of a step's arithmetic" in said[1]


@pytest.mark.parametrize("plugins", [None, ["somebody.Elses"]])
def test_a_configuration_that_does_not_name_the_plugin_goes_without(ours, plugins):
    """As the next one in a process of axolotl, which keeps its plugins."""
    assert ours.LayerSelectPlugin().add_callbacks_pre_trainer({"plugins": plugins}, None) == []


def test_the_example_is_one_that_the_plugin_takes_and_stands_in_the_guide(ours):
    root = Path(__file__).parents[2]
    example = yaml.safe_load(root.joinpath("examples", "axolotl.yml").read_text())
    assert example["plugins"] == [f"{NAME}.{ours.LayerSelectPlugin.__name__}"]
    assert ours.options_of(example) == {"rule": "variance", "mode": "auto", "probe_every": 20}
    guide = root.joinpath("docs", "guides", "other-trainers.md").read_text()
    assert yaml.safe_load(guide.partition("```yaml\n")[2].partition("```")[0]) == example


def test_without_keys_of_ours_it_is_as_a_callback_without_arguments(ours):
    assert ours.options_of({"base_model": "m", "layerselect_rule": None, "layerselect_options": None}) == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"layerselect_rul": "all"}, "'layerselect_rul', which this plugin has not: it has layerselect_rule, "),
        ({"layerselect": {"rule": "all"}}, "'layerselect', which this plugin has not"),
        ({"layerselect_rule": "best"}, "no rule 'best'"),
        ({"layerselect_rule": 3}, "rule=3"),
        ({"layerselect_mode": False}, "mode=False is none of"),  # 'off' in YAML
        ({"layerselect_options": ["probe_every"]}, "is no mapping"),
        ({"layerselect_options": {True: 1}}, "is no mapping of names"),  # 'on: 1' in YAML
        ({"layerselect_options": {"prob_every": 3}}, "did you mean 'probe_every'?"),
        ({"layerselect_options": {"probe_every": -1}}, "probe_every=-1"),
        ({"layerselect_options": {"mode": "gate"}}, "a key of its own, layerselect_mode"),
        ({"layerselect_options": {"model": 1}}, "the model is the Trainer's"),
        ({"lisa_n_layers": 2, "lisa_step_interval": 20}, "write 'layerselect_rule: lisa'"),
        ({"layerselect_options": {"tell": 1}}, "no option 'tell'"),
        ({"layerselect_options": {"resume": "perhaps"}}, "resume="),
    ],
)
def test_what_no_selector_takes_is_refused_before_anything_is_loaded(ours, given, words):
    with pytest.raises(LayerSelectError) as refused:
        ours.LayerSelectPlugin().register({"base_model": "m", **given})
    assert words in str(refused.value) and "\n" not in str(refused.value)
