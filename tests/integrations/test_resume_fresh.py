"""Resuming a run that was begun without a selector: refused with the name of the option, or a selector that begins
anew.
"""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.checkpoint import TENSORS_FILE, VALUES_FILE
from layerselect.integrations.transformers import SelectorCallback, checkpoint_defect, last_checkpoint
from transformers import Trainer

from tests.integrations.trainers import StopAfter, arguments, assert_same_end, build, dataset, train

CHANGES = {"save_steps": 2, "lr_scheduler_type": "constant"}


def selecting(mode="freeze", **options):
    return SelectorCallback(**{"rule": "topk:k=2", "mode": mode, "probe_every": 3, "resume": "fresh", **options})


@pytest.fixture
def plain_run(tmp_path):
    """Four steps of a run without a selector."""
    train(tmp_path, max_steps=4, **CHANGES)
    return tmp_path


def test_without_the_option_it_is_refused_and_the_sentence_names_it(plain_run, caplog):
    trainer = build(plain_run, selecting(resume="refuse"), **CHANGES)
    with pytest.raises(LayerSelectError) as refusal:
        trainer.train(resume_from_checkpoint=True)
    assert "holds no selector.json" in str(refusal.value) and "resume='fresh'" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert last_checkpoint(plain_run) is None
    assert "resume='fresh'" in caplog.text


@pytest.mark.parametrize("mode", ["freeze", "gate"])
def test_the_selector_begins_anew_at_that_step_and_says_so(plain_run, mode, caplog):
    callback = selecting(mode)
    trainer = build(plain_run, callback, **CHANGES)
    assert "not a complete checkpoint" not in caplog.text
    with caplog.at_level(logging.INFO):
        trainer.train(resume_from_checkpoint=last_checkpoint(plain_run, resume="fresh"))
    said = [message for message in caplog.messages if "begins anew at step 4" in message]
    assert len(said) == 1 and "checkpoint-4" in said[0]
    assert trainer.state.global_step == 8 and callback.selector.steps == 4
    assert len(callback.selector.history.arrays()["mask"]) == 4


def test_it_is_the_selector_that_those_weights_would_get(plain_run, tmp_path_factory):
    """The same as a run without selection whose Trainer meets a selector of its own in the fifth step."""
    callback = selecting("gate")
    trainer = train(plain_run, callback, resume=True, **CHANGES)
    model = build(tmp_path_factory.mktemp("whole"), max_steps=4, **CHANGES)
    model.train()
    measured = selecting("observe", resume="refuse")
    other = Trainer(
        model.model, arguments(model.args.output_dir, **CHANGES), train_dataset=dataset(), callbacks=[measured]
    )
    other.train(resume_from_checkpoint=None)
    # Batches differ, so only what selection alone can do is compared: the masks are of those scores.
    scores = torch.as_tensor(callback.selector.history.arrays()["scores"])
    masks = torch.as_tensor(callback.selector.history.arrays()["mask"])
    assert torch.equal(masks, torch.zeros_like(masks).scatter(1, scores.topk(2).indices, True))
    assert trainer.state.global_step == 8


def test_what_it_has_saved_is_continued_bit_for_bit(plain_run, tmp_path_factory, caplog):
    """The run is killed once more, and its script is started again as it is."""
    whole = selecting()
    copy = shutil.copytree(plain_run, tmp_path_factory.mktemp("copy") / "run")
    end = train(copy, whole, resume=True, **CHANGES)
    train(plain_run, selecting(), StopAfter(6), resume=True, **CHANGES)
    again = selecting()
    caplog.clear()
    trainer = train(plain_run, again, resume=last_checkpoint(plain_run, resume="fresh"), **CHANGES)
    assert "anew" not in caplog.text
    assert again.selector.steps == 4
    assert_same_end((end, whole), (trainer, again))


def test_saved_in_all_checkpoints_from_there_on(plain_run):
    train(plain_run, selecting(), resume=True, **CHANGES)
    assert checkpoint_defect(plain_run / "checkpoint-6") is None
    assert last_checkpoint(plain_run) == str(plain_run / "checkpoint-8")


LOST = {
    "the selector's values": [VALUES_FILE],
    "both files of the selector": [VALUES_FILE, TENSORS_FILE],
    "the Trainer's state": ["trainer_state.json"],
}


@pytest.mark.parametrize("lost", LOST)
def test_a_checkpoint_that_has_lost_its_selector_is_refused_all_the_same(tmp_path, lost):
    train(tmp_path, selecting("gate"), max_steps=4, **CHANGES)
    for name in LOST[lost]:
        (tmp_path / "checkpoint-4" / name).unlink()
    assert last_checkpoint(tmp_path, resume="fresh") == str(tmp_path / "checkpoint-2")
    if lost != "the Trainer's state":  # without which the Trainer resumes nothing
        with pytest.raises(LayerSelectError, match="is not a complete checkpoint") as refusal:
            train(tmp_path, selecting("gate"), resume=True, **CHANGES)
        assert "resume='fresh'" not in str(refusal.value)


def test_an_unfinished_checkpoint_without_a_selector_is_refused(plain_run):
    (plain_run / "checkpoint-4" / "checkpoint-is-incomplete.txt").touch()
    assert last_checkpoint(plain_run, resume="fresh") == str(plain_run / "checkpoint-2")
    with pytest.raises(LayerSelectError, match="is not a complete checkpoint"):
        train(plain_run, selecting(), resume=True, **CHANGES)


def test_a_damaged_state_of_the_trainer_is_no_checkpoint(plain_run):
    path = plain_run / "checkpoint-4" / "trainer_state.json"
    path.write_text(json.dumps([1]))
    assert last_checkpoint(plain_run, resume="fresh") == str(plain_run / "checkpoint-2")
    path.write_text(path.read_text()[:1])
    assert last_checkpoint(plain_run, resume="fresh") == str(plain_run / "checkpoint-2")


def test_a_wrong_option_of_last_checkpoint_is_refused(tmp_path):
    with pytest.raises(LayerSelectError, match="resume='new' is none of"):
        last_checkpoint(tmp_path, resume="new")


def test_a_run_with_a_selector_goes_on_without_one(tmp_path):
    """Nothing of ours is asked for."""
    train(tmp_path, selecting("gate"), max_steps=4, **CHANGES)
    trainer = train(tmp_path, resume=True, restore_callback_states_from_checkpoint=True, **CHANGES)
    assert trainer.state.global_step == 8
    assert not any("layerselect" in type(found).__module__ for found in trainer.callback_handler.callbacks)
    again = selecting("gate")
    with pytest.raises(LayerSelectError, match="holds no selector.json"):
        train(tmp_path, SelectorCallback(rule="topk:k=2"), resume=str(tmp_path / "checkpoint-8"), max_steps=10)
    train(tmp_path, again, resume=str(tmp_path / "checkpoint-8"), max_steps=10, **CHANGES)
    assert again.selector.steps == 2
