"""Trainings that are broken off: the model, the trainer and its callbacks are as they were found."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.integrations.transformers import SelectorCallback
from transformers import Trainer, TrainerCallback

from tests.helpers.models import hugging_face, with_lora
from tests.integrations.interrupted import (
    ADAPTED,
    CtrlC,
    Interrupted,
    assert_as_found,
    flags_of,
    gradients_of,
    hooks_on,
    interrupted,
)
from tests.integrations.trainers import arguments, build, dataset

MODES = pytest.mark.parametrize("mode", ["freeze", "gate"])
EVENTS = [
    "on_train_begin",
    "on_step_begin",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_step_end",
    "on_log",
    "on_train_end",
]


@MODES
@pytest.mark.parametrize("event", EVENTS)
def test_the_model_is_as_it_was_found_wherever_it_was(tmp_path, mode, event):
    trainer, _, found = interrupted(tmp_path, mode, event=event)
    if event == "on_train_begin":  # behind ours, where nobody sees it: the next training closes what that one left
        trainer.train()
    assert_as_found(trainer.model, found)


@MODES
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["plain", "non-reentrant", "reentrant"])
def test_in_the_middle_of_a_pass(tmp_path, monkeypatch, mode, where, checkpointing):
    monkeypatch.setattr(Interrupted, "where", where)
    changes = {}
    if checkpointing is not None:
        changes = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": checkpointing}}
    trainer, _, found = interrupted(tmp_path, mode, kind=Interrupted, **changes)
    assert flags_of(trainer.model) == found[0]
    if checkpointing is None:  # enable_input_require_grads() leaves a hook of its own
        assert_as_found(trainer.model, found)
    assert len(gradients_of(trainer.model)) == ADAPTED


@MODES
def test_in_an_evaluation(tmp_path, mode):
    changes = {"evaluates": True, "eval_strategy": "steps", "eval_steps": 2}
    trainer, _, found = interrupted(tmp_path, mode, event="on_evaluate", **changes)
    assert_as_found(trainer.model, found)


@MODES
@pytest.mark.parametrize("again", ["a new callback", "the same callback", "no callback", "the same Trainer"])
def test_the_next_training_of_the_same_model(tmp_path, mode, again):
    """As in a notebook: the old Trainer is still there."""
    trainer, callback, _ = interrupted(tmp_path / "first", mode, event="on_step_end")
    first = callback.selector
    callbacks = {
        "a new callback": [SelectorCallback(rule="fixed:layers=[0]", mode=mode)],
        "the same callback": [callback],
        "no callback": [],
        "the same Trainer": [callback],
    }[again]
    other = trainer
    if again != "the same Trainer":
        data = arguments(tmp_path / "second", save_strategy="no")
        other = Trainer(trainer.model, data, train_dataset=dataset(), callbacks=callbacks)
    start = {name: p.detach().clone() for name, p in other.model.named_parameters()}
    other.train()
    moved = {
        name.split(".layers.")[1][0] for name, p in other.model.named_parameters() if not torch.equal(p, start[name])
    }
    assert moved == {"a new callback": {"0"}, "no callback": set("0123")}.get(again, {"3"})
    if callbacks:
        assert callbacks[0].selector is not first and callbacks[0].selector.steps == 8
        assert callbacks[0].selector.num_layers == 4
    with pytest.raises(LayerSelectError, match="was closed"):
        first.step()


def test_the_trainer_is_as_it_was_and_can_be_forgotten(tmp_path):
    trainer, callback, _ = interrupted(tmp_path, "gate", event="on_step_end")
    wrapped = [name for name in vars(trainer) if callable(vars(trainer)[name]) and hasattr(Trainer, name)]
    assert wrapped == []
    callbacks = [type(found).__module__ for found in trainer.callback_handler.callbacks]
    assert callbacks.count("layerselect.integrations.transformers") == 1
    assert "layerselect.integrations.trainer_internals" not in callbacks
    gone = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert gone() is None and callback.selector is not None


def test_a_trainers_own_wrappers_stay(tmp_path):
    """Somebody has wrapped a method of this Trainer before us, and somebody wraps ours."""
    calls = []
    trainer = build(tmp_path, SelectorCallback(mode="gate"), save_strategy="no", max_steps=2)
    inner = trainer._run_epoch

    def before(*args, **kwargs):
        calls.append("before")
        return inner(*args, **kwargs)

    trainer._run_epoch = before
    trainer.train()
    assert vars(trainer)["_run_epoch"] is before and calls == ["before"]

    class Wraps(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            ours = trainer._run_epoch

            def behind(*args, **kwargs):
                calls.append("behind")
                return ours(*args, **kwargs)

            trainer._run_epoch = behind

    trainer.add_callback(Wraps())
    trainer.train()
    assert calls == ["before", "behind", "before"]
    trainer.pop_callback(SelectorCallback)
    trainer.train()  # ours is still in the chain and does nothing
    assert calls[-3:] == ["behind", "behind", "before"]


def test_an_error_when_training_begins_leaves_nothing_behind(tmp_path):
    callback = SelectorCallback(rule="fixed:layers=[9]", mode="freeze")
    trainer = build(tmp_path, callback)
    found = flags_of(trainer.model), hooks_on(trainer.model)
    with pytest.raises(LayerSelectError):
        trainer.train()
    assert_as_found(trainer.model, found)


def test_a_refused_checkpoint_leaves_nothing_behind(tmp_path):
    build(tmp_path).train()
    trainer = build(tmp_path, SelectorCallback(rule="fixed:layers=[3]", mode="freeze"))
    found = flags_of(trainer.model), hooks_on(trainer.model)
    with pytest.raises(LayerSelectError, match="selector.json"):
        trainer.train(resume_from_checkpoint=True)
    assert_as_found(trainer.model, found)


def test_a_selector_of_ones_own_stays_open_and_goes_on(tmp_path):
    model = with_lora(hugging_face("llama"))
    with FastSelector(model, "topk:k=1", mode="gate") as selector:
        stop = CtrlC("on_step_end")
        data = arguments(tmp_path, save_strategy="no")
        trainer = Trainer(model, data, train_dataset=dataset(), callbacks=[SelectorCallback(selector), stop])
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        steps = selector.steps
        assert 2 <= steps <= 3
        trainer.remove_callback(stop)
        trainer.train()
        assert selector.steps == steps + 8


@MODES
def test_a_smaller_batch_after_an_out_of_memory_begins_anew(tmp_path, mode):
    """``auto_find_batch_size`` starts the training once more, with another optimizer."""

    class Full(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            if len(inputs["input_ids"]) > 2 and self.state.global_step == 1:
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(model, inputs, num_items_in_batch)

    callback = SelectorCallback(rule="fixed:layers=[2]", mode=mode)
    changes = {"auto_find_batch_size": True, "per_device_train_batch_size": 4, "save_strategy": "no"}
    trainer = build(tmp_path, callback, kind=Full, **changes)
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {
        name.split(".layers.")[1][0] for name, p in trainer.model.named_parameters() if not torch.equal(p, start[name])
    }
    assert moved == {"2"} and callback.selector.steps == trainer.state.global_step == 8
    assert sum(flags_of(trainer.model).values()) == ADAPTED
