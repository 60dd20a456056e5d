"""Hooks of others that may change hidden states: such a pass computes, and says why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from layerselect.state_cache import StateCache
from torch import nn

from tests.state_cache.changes import CUT, adapted, base, given, logits


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
