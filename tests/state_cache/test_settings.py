"""What a model is set to besides its weights: each setting has states of its own, or the pass computes. Never another's
states.

The oracle is the same model without a state cache, to which the same is done.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from layerselect import FastSelector
from layerselect.state_cache import StateCache, StateStore
from torch import nn

from tests.helpers.models import hugging_face
from tests.state_cache.changes import CHANGES, CUT, Change, adapted, freeze_below, given, logits, lora_layers
from tests.state_cache.test_same_numbers import Batch, batches

NAMES = [
    getattr(change, "__name__", "").replace("<lambda>", f"change{number}") for number, change in enumerate(CHANGES)
]


@pytest.mark.parametrize("change", CHANGES, ids=NAMES)
def test_a_setting_that_changes_has_states_of_its_own(change: Change):
    plainly, model = adapted(), adapted()
    before = logits(plainly)
    with StateCache(model, CUT):
        for _ in range(2):
            assert torch.equal(logits(model), before)
        change(plainly)
        change(model)
        expected = logits(plainly)
        for _ in range(2):
            assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("change", CHANGES, ids=NAMES)
def test_a_folder_of_another_setting_changes_nothing(change: Change, tmp_path: Path):
    """One run fills it in its setting, another one comes in the setting that it always had, and then the first
    again.
    """
    changed, unchanged = adapted(), adapted()
    change(changed)
    expected = logits(unchanged)
    changed_expected = logits(changed)
    for is_changed in (True, False, True):
        model = adapted()
        if is_changed:
            change(model)
            logits(model)  # as above: a pass may undo a merge
        with StateStore(tmp_path) as store, StateCache(model, CUT, store):
            for _ in range(2):
                assert torch.equal(logits(model), changed_expected if is_changed else expected)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5"])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_reference_pass_wherever_it_stands(name: str, gradients: bool):
    """In front of and behind the policy's pass, under no_grad or not, by disabling or by another adapter."""
    cut = 2
    truth = adapted(name, cut=cut)
    steps = batches(name, "right") * 2

    def reference(model: nn.Module, batch: Batch, how: int) -> torch.Tensor:
        with torch.set_grad_enabled(gradients):
            if how == 0:
                with model.disable_adapter():
                    return model(**batch).logits.detach()
            model.set_adapter("reference")
            try:
                return model(**batch).logits.detach()
            finally:
                model.set_adapter("default")

    model = adapted(name, cut=cut)
    held = list(model.parameters())
    with StateCache(model, cut, held=held) as state_cache:
        for number, batch in enumerate(steps):
            valid = batch["labels"] != -100 if name == "t5" else batch["attention_mask"] != 0
            for how in (0, 1):
                expected = reference(truth, batch, how)
                policy = truth(**batch)
                assert torch.equal(reference(model, batch, how)[valid], expected[valid]), number
                ours = model(**batch)
                assert torch.equal(reference(model, batch, how)[valid], expected[valid]), number
                assert torch.equal(ours.loss, policy.loss)
        # Of the policy, of the base model and of the reference, each example once.
        assert state_cache.filled == 27


def test_a_training_with_reference_passes():
    """The losses and references of a training without a store, in which nothing below the cut trains."""
    ends = []
    for kept in (True, False):
        model = adapted()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(
                ".default." in name and (kept or (".layers.0." not in name and ".layers.1." not in name))
            )
        options = {"state_cache": "cached", "cut": CUT} if kept else {}
        rule = "fixed:layers=[2,3]" if kept else "all"
        selector = FastSelector(model, rule, mode="freeze", **options)
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
        selector.attach(optimizer)
        seen = []
        for batch in batches("llama", "right") * 3:
            loss = model(**batch).loss
            with torch.no_grad(), model.disable_adapter():
                seen.append(model(**batch).loss)
            if not kept:
                freeze_below(model)
            loss.backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
            seen.append(loss.detach())
        selector.close()
        ends.append(torch.stack(seen))
    assert torch.equal(*ends)


def test_settings_share_a_folder_and_are_found_again(tmp_path: Path):
    """A disabled adapter is the base model; so is one that adds nothing. An inactive one does not count."""
    with (
        StateStore(tmp_path) as store,
        StateCache(hugging_face("llama").eval().requires_grad_(False), CUT, store) as state_cache,
    ):
        with torch.no_grad():
            state_cache._model(**given())
        assert state_cache.filled == 3
    model = adapted()
    with StateStore(tmp_path) as store, StateCache(model, CUT, store, held=()) as state_cache:
        with model.disable_adapter():
            logits(model)
        assert (state_cache.filled, state_cache.read) == (0, 3)
        logits(model)
        assert (state_cache.filled, state_cache.read) == (3, 3)
    only = adapted()
    only.delete_adapter("reference")
    with StateStore(tmp_path) as store, StateCache(only, CUT, store, held=()) as state_cache:
        logits(only)
        assert (state_cache.filled, state_cache.read) == (0, 3)


def test_adapters_that_change_their_names_or_places_are_told_apart(tmp_path: Path):
    """The same tensors under exchanged names, and the same name active."""
    one, other = adapted(), adapted()
    for layer in lora_layers(other):
        for held in (layer.lora_A, layer.lora_B):
            held["default"], held["reference"] = held["reference"], held["default"]
    expected = logits(other)
    for model in (one, other):
        with StateStore(tmp_path) as store, StateCache(model, CUT, store):
            found = logits(model)
    assert torch.equal(found, expected)


def test_switching_back_and_forth_costs_no_new_look(caplog):
    model = adapted()
    with caplog.at_level(logging.INFO, "layerselect"), StateCache(model, CUT, held=()) as state_cache:
        for _ in range(6):
            logits(model)
            with model.disable_adapter():
                logits(model)
        assert (state_cache.filled, state_cache.read) == (6, 30)
    looks = [r for r in caplog.records if "are kept as" in r.getMessage()]
    assert len(looks) <= 3  # "default" becomes ["default"] when it is switched on again


def test_autocast_that_the_model_sets_up_itself(tmp_path: Path):
    """As ``accelerate`` wraps the model's forward: outside of it nothing is seen of it."""
    expected = []
    for wrapped in (True, False, True):
        model = adapted()
        if wrapped:
            model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
        expected = logits(model)
        with StateStore(tmp_path) as store, StateCache(model, CUT, store):
            for _ in range(2):
                assert torch.equal(logits(model), expected)


def test_an_evaluation_in_inference_mode_comes_first():
    model, plainly = adapted(), adapted()
    with StateCache(model, CUT) as state_cache:
        with torch.inference_mode():
            model(**given())
        loss = model(**given()).loss
        loss.backward()
        assert (state_cache.filled, state_cache.read) == (3, 3)
    plainly(**given()).loss.backward()
    for (_, one), (_, other) in zip(model.named_parameters(), plainly.named_parameters(), strict=True):
        assert (one.grad is None and other.grad is None) or torch.equal(one.grad, other.grad)


def test_what_changes_in_every_pass_is_computed_and_named(caplog):
    plainly, model = adapted(), adapted()
    with StateCache(model, CUT) as state_cache:
        for number in range(12):
            for one in (plainly, model):
                one.get_base_model().model.layers[0].self_attn.scaling = 0.1 + 0.05 * number
            assert torch.equal(logits(model), logits(plainly))
        assert state_cache.filled < 18
        for _ in range(3):
            assert torch.equal(logits(model), logits(plainly))
        assert state_cache.read >= 3  # it has come to rest
    assert "self_attn changes in every pass" in caplog.text
