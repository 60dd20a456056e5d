"""Callbacks and trainers that follow one another, and two at once, which are refused."""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.integrations import trainer_internals
from layerselect.integrations.transformers import SelectorCallback
from transformers import Trainer

from tests.helpers.models import hugging_face, with_lora
from tests.integrations.interrupted import (
    ADAPTED,
    assert_as_found,
    flags_of,
    gradients_of,
    hooks_on,
    interrupted,
)
from tests.integrations.trainers import arguments, build, dataset

TWO = {
    "two of them": lambda ours: ([ours, SelectorCallback(rule="all")], []),
    "the same twice": lambda ours: ([ours, ours], []),
    "one added later": lambda ours: ([ours], [SelectorCallback(rule="all")]),
    "as a class": lambda ours: ([ours, SelectorCallback], []),
    "of a class derived from it": lambda ours: ([ours, type("Own", (SelectorCallback,), {})()], []),
}


@pytest.mark.parametrize("how", TWO)
def test_two_callbacks_on_one_trainer_are_refused_before_anything_is_changed(tmp_path, how):
    given, added = TWO[how](SelectorCallback(rule="fixed:layers=[1]", mode="freeze"))
    trainer = build(tmp_path, *given, save_strategy="no")
    for callback in added:
        trainer.add_callback(callback)
    found = flags_of(trainer.model), hooks_on(trainer.model)
    before = list(trainer.callback_handler.callbacks)
    with pytest.raises(LayerSelectError, match="this Trainer has 2 callbacks of the kind SelectorCallback") as refusal:
        trainer.train()
    assert "\n" not in str(refusal.value)
    assert_as_found(trainer.model, found)
    assert trainer.callback_handler.callbacks == before
    trainer.pop_callback(SelectorCallback)
    trainer.train()


def test_one_callback_serves_one_trainer_after_the_other(tmp_path):
    callback = SelectorCallback(rule="fixed:layers=[1]", mode="freeze")
    trainers = [build(tmp_path / str(i), callback, save_strategy="no") for i in range(2)]
    selectors = []
    for trainer in [*trainers, trainers[0]]:
        trainer.train()
        selectors.append(callback.selector)
        assert callback.selector.steps == 8
        assert len(gradients_of(trainer.model)) == ADAPTED
    assert len({id(selector) for selector in selectors}) == 3


def test_a_trial_after_the_other_has_a_model_and_an_optimizer_of_its_own(tmp_path):
    """What hyperparameter_search() does: model_init makes a new model for each."""
    callback = SelectorCallback(rule="fixed:layers=[1]", mode="gate")
    trainer = Trainer(
        None,
        arguments(tmp_path, save_strategy="no"),
        train_dataset=dataset(),
        callbacks=[callback],
        model_init=lambda: with_lora(hugging_face("llama")),
    )
    start = {name: p.detach().clone() for name, p in with_lora(hugging_face("llama")).named_parameters()}
    models = []
    for _ in range(2):
        trainer.train()
        models.append(trainer.model)
        moved = {
            name.split(".layers.")[1][0]
            for name, p in trainer.model.named_parameters()
            if not torch.equal(p, start[name])
        }
        assert moved == {"1"} and callback.selector.steps == 8
    assert models[0] is not models[1]


def test_a_selector_over_another_model_is_refused(tmp_path):
    with FastSelector(with_lora(hugging_face("llama")), "all", mode="gate") as selector:
        trainer = build(tmp_path, SelectorCallback(selector))
        with pytest.raises(LayerSelectError, match=r"build it over trainer\.model"):
            trainer.train()


def test_a_trainer_that_is_not_to_be_seen_leaves_it_to_the_next_selector(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_internals, "currentframe", lambda: None)
    trainer, callback, _ = interrupted(tmp_path, "gate", event="on_step_end")
    trainer.train()
    assert callback.selector.steps == 8
    assert len(gradients_of(trainer.model)) == ADAPTED
