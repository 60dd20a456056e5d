"""What else a Trainer does around its steps: evaluations, the best model, checkpoints of weights alone, settings of its
own.
"""

from __future__ import annotations

import json

import pytest
import torch
from layerselect import FastSelector
from layerselect.checkpoint import VALUES_FILE
from layerselect.integrations.transformers import SelectorCallback, checkpoint_defect, last_checkpoint
from torch import nn
from transformers import Trainer, TrainerCallback

from tests.helpers.models import hugging_face, with_lora
from tests.integrations.trainers import StopAfter, arguments, assert_same_end, build, dataset, train

MODES = pytest.mark.parametrize("mode", ["freeze", "gate"])


def selecting(mode, **options):
    return SelectorCallback(**{"rule": "topk:k=2", "mode": mode, "probe_every": 3, **options})


def flags_of(model):
    return {name: p.requires_grad for name, p in model.named_parameters()}


@MODES
@pytest.mark.parametrize(
    "settings",
    [
        {"eval_strategy": "steps", "eval_steps": 1},
        {"eval_on_start": True, "eval_strategy": "epoch"},
    ],
    ids=["in every step", "before the first"],
)
def test_evaluations_change_nothing(tmp_path, mode, settings):
    ends = []
    for evaluates in (False, True):
        callback = selecting(mode)
        changes = settings if evaluates else {}
        trainer = train(tmp_path, callback, evaluates=evaluates, save_strategy="no", **changes)
        ends.append((trainer, callback))
    assert_same_end(*ends)
    rows = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert rows and not any(name.startswith("layerselect/") for row in rows for name in row)


@MODES
def test_the_best_model_is_loaded_while_the_selector_is_open(tmp_path, mode):
    callback = selecting(mode)
    trainer = build(
        tmp_path,
        callback,
        evaluates=True,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
    )
    found = flags_of(trainer.model)
    trainer.train()
    assert flags_of(trainer.model) == found
    assert callback.selector.steps == 8


@MODES
@pytest.mark.parametrize("lora", [True, False], ids=["adapters", "all weights"])
def test_checkpoints_hold_the_layers_that_do_not_train(tmp_path, mode, lora):
    """Of adapters and of whole models."""
    model = with_lora(hugging_face("llama")) if lora else hugging_face("llama")
    callback = SelectorCallback(rule="fixed:layers=[1]", mode=mode)
    trainer = Trainer(model, arguments(tmp_path), train_dataset=dataset(), callbacks=[callback])
    trainer.train()
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "checkpoint-8" / ("adapter_model.safetensors" if lora else "model.safetensors"))
    assert {int(name.split(".layers.")[1][0]) for name in saved if ".layers." in name} == {0, 1, 2, 3}


class SavesWhatTrains(TrainerCallback):
    """As many scripts do: only parameters that require a gradient are kept."""

    def on_step_end(self, args, state, control, **kwargs):
        self.names = {name for name, p in kwargs["model"].named_parameters() if p.requires_grad}


@MODES
def test_a_script_that_saves_what_requires_a_gradient_saves_all_layers(tmp_path, mode):
    """Outside of the forward pass flags are the user's."""
    saves = SavesWhatTrains()
    trainer = train(tmp_path, SelectorCallback(rule="fixed:layers=[1]", mode=mode), saves, save_strategy="no")
    assert saves.names == {name for name, p in trainer.model.named_parameters() if "lora_" in name}


@MODES
def test_checkpoints_of_the_weights_alone(tmp_path, mode):
    callback = selecting(mode)
    train(tmp_path, callback, StopAfter(5), save_only_model=True)
    folder = tmp_path / "checkpoint-4"
    assert not (folder / "optimizer.pt").exists() and checkpoint_defect(folder) is None
    again = selecting(mode)
    trainer = train(tmp_path, again, resume=last_checkpoint(tmp_path), save_only_model=True)
    assert trainer.state.global_step == again.selector.steps == 8


@MODES
def test_states_of_callbacks_restored_from_a_checkpoint(tmp_path, mode):
    whole = selecting(mode)
    end = train(tmp_path / "whole", whole)
    train(tmp_path / "part", selecting(mode), StopAfter(5))
    resumed = selecting(mode)
    trainer = train(tmp_path / "part", resumed, resume=True, restore_callback_states_from_checkpoint=True)
    assert_same_end((end, whole), (trainer, resumed))


@MODES
def test_a_finished_run_resumed_is_finished(tmp_path, mode):
    train(tmp_path, selecting(mode))
    callback = selecting(mode)
    trainer = train(tmp_path, callback, resume=True)
    assert (
        trainer.state.global_step == callback.selector.steps <= 9
    )  # the Trainer sees after a step that it was the last
    assert all(p.requires_grad for n, p in trainer.model.named_parameters() if "lora_" in n)


def test_the_trainers_state_is_json_that_others_can_read(tmp_path):
    """No NaN and no infinity comes from us."""
    train(tmp_path, SelectorCallback(rule="threshold:gamma=0.3", mode="observe", warmup=2))

    def refuse(name):
        raise AssertionError(name)

    for name in ("trainer_state.json", VALUES_FILE):
        json.loads((tmp_path / "checkpoint-8" / name).read_text(), parse_constant=refuse)


@MODES
@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_a_selector_built_before_the_trainer_turns_checkpointing_on(tmp_path, mode, reentrant):
    """Trainer.train() turns it on, and the selector is older."""
    ends = []
    settings = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    for changes in ({}, settings):
        model = with_lora(hugging_face("llama"))
        with FastSelector(model, "topk:k=2", mode=mode, probe_every=3) as selector:
            callback = SelectorCallback(selector)
            data = arguments(tmp_path, save_strategy="no", **changes)
            trainer = Trainer(model, data, train_dataset=dataset(), callbacks=[callback])
            trainer.train()
        ends.append((trainer, callback))
    assert_same_end(*ends)


class InGroups(Trainer):
    """Layers in parameter groups of their own, as for layer-wise learning rates."""

    def create_optimizer(self, model=None):
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(name.split(".layers.")[1][0], []).append(parameter)
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters, "lr": 1e-3 * (1 + int(layer))} for layer, parameters in groups.items()]
        )
        return self.optimizer


@MODES
def test_an_optimizer_with_groups_of_its_own(tmp_path, mode):
    callback = SelectorCallback(rule="fixed:layers=[2]", mode=mode)
    trainer = build(tmp_path, callback, kind=InGroups, save_strategy="no")
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {
        name.split(".layers.")[1][0] for name, p in trainer.model.named_parameters() if not torch.equal(p, start[name])
    }
    assert moved == {"2"} and len(trainer.optimizer.param_groups) == 4


@MODES
@pytest.mark.parametrize("strategy", ["best", "epoch"])
def test_every_saving_strategy_saves_the_selector(tmp_path, mode, strategy):
    changes = {"evaluates": True, "eval_strategy": "epoch", "save_strategy": strategy, "metric_for_best_model": "loss"}
    callback = selecting(mode)
    train(tmp_path, callback, max_steps=-1, num_train_epochs=1, **changes)
    folders = list(tmp_path.glob("checkpoint-*"))
    assert len(folders) == 1 and checkpoint_defect(folders[0]) is None
