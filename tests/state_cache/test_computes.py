"""Passes whose hidden states no entry can be found by: they compute as without a store, and the cause is said once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.state_cache import StateCache
from torch import nn

from tests.helpers.models import hugging_face
from tests.state_cache.changes import CUT, adapted, base, freeze_below, given, logits


def test_vectors_that_train_outside_the_model():
    """A soft prompt of one's own: cached states would cut its gradient off."""
    gradients = []
    for kept in (True, False):
        model = adapted()
        state_cache = StateCache(model, CUT) if kept else None
        with torch.no_grad():
            model(**given())
        embedded = model.get_input_embeddings()(given()["input_ids"]).detach().requires_grad_(True)
        model(
            inputs_embeds=embedded, labels=given()["labels"], attention_mask=given()["attention_mask"]
        ).loss.backward()
        gradients.append(embedded.grad)
        if state_cache is not None:
            state_cache.close()
    assert gradients[1].any() and torch.equal(*gradients)


def test_embeddings_that_are_given():
    model, plainly = adapted(), adapted()
    embedded = model.get_input_embeddings()(given()["input_ids"]).detach()
    batch = {"inputs_embeds": embedded, "attention_mask": given()["attention_mask"]}
    with StateCache(model, CUT) as state_cache, torch.no_grad():
        for scale in (1.0, 2.0, 1.0):
            scaled = {**batch, "inputs_embeds": embedded * scale}
            assert torch.equal(logits(model, scaled), logits(plainly, scaled))
        assert (state_cache.filled, state_cache.read) == (6, 3)


def test_adapters_by_example():
    plainly, model = adapted(), adapted()
    names = ["default", "reference", "__base__"]
    with StateCache(model, CUT) as state_cache:
        logits(model)
        for order in (names, names[::-1]):
            assert torch.equal(logits(model, adapter_names=order), logits(plainly, adapter_names=order))
        assert state_cache.filled == 3


@pytest.mark.parametrize("kind", ["prompt", "prefix", "p-tuning"])
def test_virtual_tokens(kind: str, caplog):
    import peft

    def build() -> nn.Module:
        config = {
            "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
            "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
            "p-tuning": peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
        }[kind]
        torch.manual_seed(0)
        return peft.get_peft_model(hugging_face("llama"), config).eval()

    plainly, model = build(), build()
    losses, references = [], []
    for one in (plainly, model):
        state_cache = StateCache(one, CUT) if one is model else None
        for _ in range(2):
            loss = one(**given()).loss
            loss.backward()
            losses.append(loss.item())
            with torch.no_grad(), one.disable_adapter():
                references.append(one(**given()).loss.item())
        if state_cache is not None:
            state_cache.close()
    assert losses[:2] == losses[2:] and references[:2] == references[2:]
    for one, other in zip(plainly.parameters(), model.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None) and (one.grad is None or torch.equal(one.grad, other.grad))
    assert "adapter 'default' puts virtual tokens in front of each example" in caplog.text


def test_a_forward_that_was_replaced():
    plainly, model = adapted(), adapted()
    with StateCache(model, CUT) as state_cache:
        logits(model)
        for one in (plainly, model):
            block = base(one).layers[0]
            forward = block.forward
            block.forward = lambda *args, forward=forward, **kwargs: forward(*args, **kwargs) * 1.5
        assert torch.equal(logits(model), logits(plainly))
        assert state_cache.read == 0


def test_an_adapter_that_is_switched_on_is_computed_without_gradients_and_refused_with_them():
    plainly, model = adapted(), adapted()
    with StateCache(model, CUT):
        logits(model)
        for one in (plainly, model):
            one.set_adapter("reference")
        assert torch.equal(logits(model), logits(plainly))
        with pytest.raises(
            LayerSelectError, match=r"lora_A\.reference.* trains and .*set_adapter\(\) and disable_adapter\(\)"
        ):
            model(**given())


@pytest.mark.parametrize("as_tuple", [False, True])
def test_a_pass_that_remembers_nothing_says_so(as_tuple: bool):
    model = adapted()
    batch = {"input_ids": given()["input_ids"][:1]}
    with StateCache(model, CUT), torch.no_grad():
        output = model(**batch, return_dict=not as_tuple)
        memory = output[1] if as_tuple else output.past_key_values
        with pytest.raises(LayerSelectError, match="pass use_cache=True to the first pass"):
            model(input_ids=batch["input_ids"][:, -1:], past_key_values=memory)
        with pytest.raises(LayerSelectError, match="pass use_cache=True to the first pass"):
            memory.get_seq_length()


def test_generation_in_the_middle_of_a_step():
    plainly, model = adapted(), adapted()
    prompt = {"input_ids": given()["input_ids"][:1, :4], "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    ends = []
    for one in (plainly, model):
        state_cache = StateCache(one, CUT, held=()) if one is model else None
        loss = one(**given()).loss
        found = []
        for use_cache in (True, False):
            for how in (True, False):
                if how:
                    with one.disable_adapter():
                        found.append(one.generate(**prompt, max_new_tokens=4, do_sample=False, use_cache=use_cache))
                else:
                    found.append(one.generate(**prompt, max_new_tokens=4, do_sample=False, use_cache=use_cache))
        loss.backward()
        above = base(one).layers[CUT].mlp.up_proj.lora_B["default"].weight
        ends.append((torch.cat(found), above.grad))
        if state_cache is not None:
            state_cache.close()
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))


def test_a_model_that_is_compiled_in_place_is_refused():
    model = adapted()
    with StateCache(model, CUT):
        logits(model)
        model.compile(backend="eager")
        with pytest.raises(LayerSelectError, match="the model is compiled"):
            logits(model)


def test_copies_and_saved_models_compute(tmp_path: Path):
    model, plainly = adapted(), adapted()
    expected = logits(plainly)
    with StateCache(model, CUT) as state_cache:
        logits(model)
        torch.save(model, tmp_path / "model.pt")
        averaged = torch.optim.swa_utils.AveragedModel(model)
        copied = torch.load(tmp_path / "model.pt", weights_only=False)
        assert torch.equal(logits(copied), expected) and torch.equal(logits(averaged.module), expected)
        for other in (copied, averaged.module, plainly):
            base(other).layers[0].mlp.up_proj.base_layer.weight.data.mul_(2.0)
        assert torch.equal(logits(copied), logits(plainly)) and torch.equal(logits(averaged.module), logits(plainly))
        assert (state_cache.filled, state_cache.read) == (3, 0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_with_a_reference_pass_in_the_middle(reentrant: bool):
    ends = []
    for kept in (True, False):
        model = adapted().train()
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        state_cache = StateCache(model, CUT) if kept else None
        found = []
        for _ in range(2):
            loss = model(**given()).loss
            with torch.no_grad(), model.disable_adapter():
                found.append(model(**given()).loss)
            freeze_below(model)  # which disable_adapter() has switched on
            loss.backward()
            found += [p.grad for p in model.parameters() if p.grad is not None]
            model.zero_grad()
        if state_cache is not None:
            assert (state_cache.filled, state_cache.read) == (6, 6)
            state_cache.close()
        ends.append(found)
    assert len(ends[0]) == len(ends[1]) > 10
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))


def test_autocast_around_the_first_pass_leaves_its_gradients():
    """What is cast while the model is looked at, without gradients, must not be used in the pass."""
    gradients = []
    for kept in (True, False):
        model = adapted()
        state_cache = StateCache(model, CUT) if kept else None
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**given()).loss
        loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        if state_cache is not None:
            assert state_cache.filled == 3
            state_cache.close()
    assert len(gradients[0]) == len(gradients[1]) > 0
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
