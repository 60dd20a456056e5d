"""Placements: saved, damaged, put into peft, trained by a rule and by commands."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from layerselect import FastSelector, LayerSelectError, make_rule
from layerselect.card import LayerCard
from layerselect.cli.main import main
from layerselect.placement import Placement
from layerselect.tasks.intent import IntentConfig, run_intent
from peft import get_peft_model
from torch import nn

from tests.card.made import made
from tests.helpers.models import hugging_face, language_loss, plain, plain_loss, with_lora

NAMES = [f"model.layers.{layer}" for layer in range(4)]
RANKS = {"model.layers.1.self_attn.q_proj": 3, "model.layers.3.mlp.up_proj": 5}


def placement(**changes) -> Placement:
    return replace(Placement([1, 3], 0.9, 0.8, NAMES, chosen_by="hand"), **changes)


@pytest.mark.parametrize("changes", [{}, {"ranks": RANKS}, {"gain": math.nan, "cost": math.nan}, {"doubt": "noise"}])
def test_it_comes_back_as_it_was(tmp_path, changes):
    saved = placement(**changes)
    path = saved.save(tmp_path)
    assert path == tmp_path / "placement.json" and list(tmp_path.iterdir()) == [path]
    loaded = Placement.load(tmp_path)
    assert loaded.to_dict() == saved.to_dict() and loaded.chosen == [NAMES[1], NAMES[3]]
    assert json.loads(path.read_text())["version"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("schema"), "is not a placement"),
        (lambda v: v.update(version=2), "of version 2, and this package reads 1"),
        (lambda v: v.update(layers=[4]), r"layers\[0\] is 4 and must be from 0 to 3"),
        (lambda v: v.update(layers=[1, 1]), "layers holds 1 twice"),
        (lambda v: v.update(layers=[True]), "must be a whole number"),
        (lambda v: v.update(names=[]), "names has 0 items"),
        (lambda v: v.update(names=["a", "a"]), "twice"),
        (lambda v: v.update(gain=-1), "gain is -1 and must be from"),
        (lambda v: v.update(ranks={"model.layers.0.q": 3}), "which is in none of the layers"),
        (lambda v: v.update(ranks={"model.layers.1.q": 0}), "must be from 1 to"),
        (lambda v: v.update(more=1), "does not belong there"),
        (lambda v: v.pop("cost"), "holds no 'cost'"),
    ],
)
def test_a_damaged_one_is_refused(tmp_path, change, message):
    path = placement().save(tmp_path)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(LayerSelectError, match=message):
        Placement.load(path)
    with pytest.raises(LayerSelectError, match=message):
        make_rule(f"placement:file={json.dumps(str(path))}")


def test_what_is_not_there_or_cannot_be_written(tmp_path):
    with pytest.raises(LayerSelectError, match="cannot be read .*layerselect pilot"):
        Placement.load(tmp_path / "none.json")
    with pytest.raises(LayerSelectError, match="cannot be written to"):
        placement().save(tmp_path / "no" / "folder.json")
    with pytest.raises(LayerSelectError, match="fits no model"):
        Placement([1]).save(tmp_path / "p.json")
    with pytest.raises(LayerSelectError, match="file= is missing"):
        make_rule("placement")


def adapted(model: nn.Module) -> dict[str, int]:
    """The rank of each map that has LoRA, by its name."""
    return {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight"): len(p)
        for name, p in model.named_parameters()
        if "lora_A" in name
    }


def test_peft_puts_adapters_there_and_nowhere_else():
    found = adapted(get_peft_model(hugging_face("llama"), placement(ranks=RANKS).lora_config(task_type="CAUSAL_LM")))
    assert found == RANKS
    config = placement().lora_config(["q_proj", "down_proj"], r=2)
    found = adapted(get_peft_model(hugging_face("llama"), config))
    assert found == {f"{NAMES[layer]}.{name}": 2 for layer in (1, 3) for name in ("self_attn.q_proj", "mlp.down_proj")}
    for odd in (None, "q_proj", [], [None], [[]], [""], 3, True, float("nan")):
        with pytest.raises(LayerSelectError, match="is no list of names"):
            placement().lora_config(odd)
    with pytest.raises(LayerSelectError, match="has no layers, so it takes no adapter"):
        placement(layers=[]).lora_config(["q_proj"])
    with pytest.raises(LayerSelectError, match="beside ranks"):
        placement(ranks=RANKS).lora_config(["q_proj"])


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_rule_trains_its_layers_under_any_wrapper(tmp_path, wrapped):
    path = placement().save(tmp_path)
    model = with_lora(hugging_face("llama")) if wrapped else hugging_face("llama")
    with FastSelector(model, f"placement:file={json.dumps(str(path))}", mode="freeze") as selector:
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        for step in range(2):
            language_loss(model, step).backward()
            selector.step()
            assert selector.selected() == [1, 3]
            optimizer.step()
            optimizer.zero_grad()
        assert selector.rule.config() == {"file": str(path), "chosen": [NAMES[1], NAMES[3]]}


def test_another_models_placement_is_refused(tmp_path):
    path = placement().save(tmp_path)
    for layers, message in ((6, "has 4 layers, the model 6"), (4, "use the placement of this model")):
        with pytest.raises(LayerSelectError, match=message):
            FastSelector(plain(layers), f"placement:file={json.dumps(str(path))}")


def test_a_card_proposes_one_that_can_be_trained(tmp_path, capsys):
    card = made([3.0, 0.1, 2.0, 1.0], prefix="blocks")
    card.save(tmp_path / "card.json")
    command = ["card", "place", str(tmp_path), "--k", "2", "--rank-budget", "21", "--out", str(tmp_path / "p.json")]
    assert main(command) == 0
    assert "2 of 4 layers (0, 2)" in capsys.readouterr().err
    found = Placement.load(tmp_path / "p.json")
    assert found == LayerCard.load(tmp_path).propose(2, rank_budget=21)
    assert found.layers == [0, 2] and found.ranks == {"blocks.0.map": 2, "blocks.2.map": 1}
    assert found.chosen_by == "a Layer Card, place(k=2, objective='performance')" and not found.doubt
    model = plain(4)
    with FastSelector(model, f"placement:file={json.dumps(str(tmp_path / 'p.json'))}", mode="gate") as selector:
        plain_loss(model).backward()
        selector.step()
        assert selector.selected() == [0, 2]
    assert main([*command[:-1], str(tmp_path / "no" / "p.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_run_trains_a_placement(tmp_path, corpus_path, bert_folder):
    names = [f"bert.encoder.layer.{layer}" for layer in range(3)]
    path = Placement([0, 2], names=names).save(tmp_path / "p.json")
    settings = {"data": str(corpus_path), "model": str(bert_folder), "device": "cpu", "max_steps": 3}
    config = IntentConfig(**settings, out=str(tmp_path / "run"), placement=str(path))
    assert replace(config).rule == config.rule == f"placement:file={json.dumps(str(path))}"
    result = run_intent(config)
    assert json.loads((result.folder / "importance.json").read_text())["frequency"] == [3, 0, 3]
    with pytest.raises(LayerSelectError, match="--placement .* chooses the layers, and --rule all says others"):
        IntentConfig(**settings, out="o", placement=str(path), rule="all")
    with pytest.raises(LayerSelectError, match="cannot be read"):
        IntentConfig(**settings, out="o", placement=str(tmp_path / "none.json"))
