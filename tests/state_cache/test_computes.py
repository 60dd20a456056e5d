"""Passes whose hidden states no entry can be found by: they compute as without a store, and the cause is said once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.state_cache import StateCache
from torch import nn

from tests.helpers.models import hugging_face
from tests.state_cache.test_settings import CUT, adapted, freeze_below, given, logits


def base(model: nn.Module) -> nn.Module:
    return model.get_base_model().model


def steering(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    return output + 0.5


def on_the_embedding(model: nn.Module) -> object:
    return base(model).embed_tokens.register_forward_hook(steering)


def on_a_block_below(model: nn.Module) -> object:
    return base(model).layers[0].register_forward_hook(steering)


def on_the_last_block_below(model: nn.Module) -> object:
    return base(model).layers[CUT - 1].register_forward_hook(steering)


def in_front_of_a_block_below(model: nn.Module) -> object:
    def shift(module: nn.Module, args: tuple) -> tuple:
        return (args[0] * 1.5, *args[1:])

    return base(model).layers[1].register_forward_pre_hook(shift)


def on_a_projection(model: nn.Module) -> object:
    return base(model).layers[0].self_attn.q_proj.register_forward_hook(steering)


def in_front_of_the_decoder(model: nn.Module) -> object:
    def other_tokens(module: nn.Module, args: tuple, kwargs: dict) -> tuple:
        return args, {**kwargs, "input_ids": kwargs["input_ids"].flip(0)}

    return base(model).register_forward_pre_hook(other_tokens, with_kwargs=True)


def everywhere(model: nn.Module) -> object:
    def shift(module: nn.Module, args: tuple, output: object) -> object:
        return output * 1.5 if isinstance(module, nn.Embedding) else None

    return nn.modules.module.register_module_forward_hook(shift)


HOOKS = [
    on_the_embedding,
    on_a_block_below,
    on_the_last_block_below,
    in_front_of_a_block_below,
    on_a_projection,
    in_front_of_the_decoder,
    everywhere,
]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_hooks_of_others(hook: Callable[[nn.Module], object], first: bool, caplog):
    plainly, model = adapted(), adapted()
    unhooked = logits(plainly)
    handles = [hook(plainly)]
    expected = logits(plainly)
    handles.pop().remove()
    assert not torch.equal(expected, unhooked)
    with StateCache(model, CUT) as state_cache:
        if not first:
            assert torch.equal(logits(model), unhooked)
        handles.append(hook(model))
        for _ in range(2):
            assert torch.equal(logits(model), expected)
        assert (state_cache.filled, state_cache.read) == (0 if first else 3, 0)
        handles.pop().remove()
        for _ in range(2):
            assert torch.equal(logits(model), unhooked)
        assert state_cache.read == (3 if first else 6)
    assert caplog.text.count("hidden states are computed as without a store where the hook") == 1


def test_hooks_that_change_nothing():
    model = adapted()
    model.enable_input_require_grads()
    with StateCache(model, CUT) as state_cache, torch.no_grad():
        model(**given(), output_hidden_states=True)  # which hooks transformers' own in
        logits(model)
        logits(model)
        assert (state_cache.filled, state_cache.read) == (3, 3)


@pytest.mark.parametrize("first", [True, False])
def test_noise_on_the_embedding_goes_on(first: bool):
    """NEFTune, as the Trainer switches it on and off."""
    from transformers.integrations.neftune import neftune_post_forward_hook

    losses = []
    for kept in (True, False):
        model = adapted().train()
        state_cache = StateCache(model, CUT) if kept else None
        embedding = model.get_input_embeddings()
        found = []
        if not first:
            found.append(model(**given()).loss)
        embedding.neftune_noise_alpha = 50.0
        handle = embedding.register_forward_hook(neftune_post_forward_hook)
        torch.manual_seed(0)
        found += [model(**given()).loss for _ in range(3)]
        model.eval()
        found.append(model(**given()).loss)
        handle.remove()
        del embedding.neftune_noise_alpha
        found += [model(**given()).loss for _ in range(2)]
        if state_cache is not None:
            assert state_cache.filled == 3
            state_cache.close()
        losses.append(torch.stack(found).tolist())
    assert losses[0] == losses[1] and len(set(losses[0][-4:-1])) == 3 - 1


def test_the_training_mode_that_a_computing_pass_is_in_stays():
    model = adapted(lora_dropout=0.5).train()
    with StateCache(model, CUT):
        model(**given(), use_cache=True)
        assert all(module.training for module in model.modules())
        with pytest.raises(IndexError):
            model(input_ids=torch.full((1, 3), 1000), use_cache=True)
        assert all(module.training for module in model.modules())


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


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.norm(self.linear(hidden).transpose(1, 2)).transpose(1, 2)


class Stack(nn.Module):
    def __init__(self, *, times: int = 1) -> None:
        super().__init__()
        self.times, self.layerdrop = times, 0.0
        self.embed, self.blocks = nn.Embedding(64, 8), nn.ModuleList(Normed() for _ in range(4))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(tokens)
        for _ in range(self.times):
            for block in self.blocks:
                if self.training and torch.rand(()) < self.layerdrop:
                    continue
                hidden = block(hidden)
        return hidden


def stack(**options: int) -> nn.Module:
    torch.manual_seed(0)
    return Stack(**options).requires_grad_(False)


def test_norms_over_the_batch(caplog):
    """While they train, they take the batch's statistics, and their own move."""
    plainly, model = stack(), stack()
    batches = [torch.randint(0, 64, (3, 5)) for _ in range(2)]
    with StateCache(model, CUT) as state_cache:
        for mode in (True, False, True, False):
            for tokens in batches:
                assert torch.equal(model.train(mode)(tokens), plainly.train(mode)(tokens))
        assert state_cache.filled == 12
        assert torch.equal(model(batches[0]), plainly(batches[0]))
        assert state_cache.read == 3
    assert "blocks.0.norm trains, so it normalises by the batch" in caplog.text


def test_layers_that_are_left_out_at_random(caplog):
    plainly, model = stack(), stack()
    tokens = torch.randint(0, 64, (3, 5))
    for one in (plainly, model):
        for module in one.modules():
            module.training = not isinstance(module, nn.BatchNorm1d)
        one.layerdrop = 0.5
    with StateCache(model, CUT):
        for seed in range(4):
            found = []
            for one in (plainly, model):
                torch.manual_seed(seed)
                found.append(one(tokens))
            assert torch.equal(*found)
    assert "leaves out layers at random" in caplog.text


def test_layers_that_run_twice_are_refused():
    model = stack(times=2).eval()
    with StateCache(model, CUT), pytest.raises(LayerSelectError, match="runs its layers more than once in a pass"):
        model(torch.randint(0, 64, (3, 5)))


def test_rotary_embeddings_that_follow_the_batch(caplog):
    from transformers import LlamaConfig, LlamaForCausalLM

    def build() -> nn.Module:
        torch.manual_seed(0)
        return (
            LlamaForCausalLM(
                LlamaConfig(
                    hidden_size=16,
                    intermediate_size=32,
                    num_hidden_layers=4,
                    num_attention_heads=2,
                    vocab_size=64,
                    max_position_embeddings=8,
                    rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
                )
            )
            .eval()
            .requires_grad_(False)
        )

    plainly, model = build(), build()
    tokens = torch.randint(3, 64, (2, 20))
    with StateCache(model, CUT):
        for length in (6, 20, 6, 12):
            assert torch.equal(logits(model, of(tokens[:, :length])), logits(plainly, of(tokens[:, :length])))
    assert "depend on the longest example of the batch" in caplog.text


def of(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


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
