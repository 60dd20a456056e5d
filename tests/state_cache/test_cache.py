"""The state cache: how exact it is, what it leaves alone, and which calls and models it refuses."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.state_cache import StateCache, StateStore
from torch import nn

from tests.helpers.models import VOCABULARY
from tests.state_cache.changes import CUT, given, logits
from tests.state_cache.test_same_numbers import Batch, adapted, batches, error, train


def test_half_precision_is_close():
    model = adapted("llama", CUT)
    expected = logits(model, given())
    with StateStore(precision="half") as store, StateCache(model, CUT, store):
        computed, found = logits(model, given()), logits(model, given())
    assert torch.equal(found, computed) and not torch.equal(found, expected)
    assert error(found, expected) < 1e-3


# ---------------------------------------------------------------------- randomness, modes


def test_dropout_does_not_run_below_the_cut():
    """In training mode the states are those of evaluation mode, the first time and later; above the cut, dropout goes
    on.
    """
    model = adapted("bert", CUT).train()
    inputs = given("bert")
    with StateCache(model, CUT):
        torch.manual_seed(0)
        first = model(**inputs).logits
        torch.manual_seed(0)
        again = model(**inputs).logits
        assert torch.equal(first, again)
        assert not torch.equal(model(**inputs).logits, again)
        model.eval()
        evaluated = logits(model, inputs)
    assert torch.equal(evaluated, logits(model, inputs))
    assert model.training is False


def test_a_pass_that_needs_all_layers_runs_them():
    model = adapted("llama", CUT)
    inputs = given()
    prompt = inputs["input_ids"][:1, :4]
    expected = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False
    )
    with StateCache(model, CUT) as state_cache, torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
        remembered = model(**inputs, use_cache=True)
        assert state_cache.filled == 0
        found = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False
        )
        kept = model(**inputs)
        assert state_cache.filled == 3
    assert torch.equal(found, expected)
    assert len(states) == 5 and not torch.equal(states[1], states[2])
    cache = getattr(remembered, "past_key_values", None)
    assert cache is not None and cache.get_seq_length() == inputs["input_ids"].shape[1]
    # It would lack the layers that were skipped.
    assert set(kept.keys()) == {"loss", "logits"} and all(isinstance(item, torch.Tensor) for item in kept.to_tuple())


def test_a_copy_of_the_model_computes():
    model = adapted("llama", CUT)
    expected = logits(model, given())
    with StateCache(model, CUT) as state_cache:
        logits(model, given())
        other = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in model.get_base_model().model.layers[0].parameters():
                parameter.zero_()
        state_cache.close()
    assert torch.equal(logits(other, given()), expected)


def test_an_error_in_a_pass_leaves_the_model_whole():
    model = adapted("llama", CUT)
    with StateCache(model, CUT):
        logits(model, given())
        with pytest.raises(IndexError):
            model(input_ids=torch.full((1, 3), VOCABULARY + 1))
        found = logits(model, given())
    assert torch.equal(found, logits(model, given()))


# ---------------------------------------------------------------------- what cannot be kept


def packed(inputs: Batch) -> Batch:
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5]] * 3)
    return {"input_ids": inputs["input_ids"], "position_ids": positions}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (packed, r"position_ids start anew within a row.*packing"),
        (lambda g: {**g, "cu_seq_lens_q": torch.tensor([0, 3, 9])}, r"cu_seq_lens_q.*packing"),
        (lambda g: {**g, "attention_mask": torch.ones(3, 1, 9, 9)}, r"attention_mask is \[3, 1, 9, 9\].*packing"),
        (lambda g: {**g, "attention_mask": g["attention_mask"] * 3}, "more than zeros and ones"),
    ],
)
def test_packing_is_refused(change: Callable[[Batch], Batch], message: str):
    model = adapted("llama", CUT)
    with StateCache(model, CUT), pytest.raises(LayerSelectError, match=message):
        model(**change(given()))


def test_a_loss_that_asks_padding_is_refused():
    """Padding on the left, labels everywhere: the first token is predicted from padding, whose states are not kept."""
    model = adapted("gpt2", CUT)
    inputs = given("gpt2", "left")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    with StateCache(model, CUT):
        model(**inputs)
        with pytest.raises(LayerSelectError, match="asks for the first token behind padding"):
            model(**{**inputs, "labels": labels})


@pytest.mark.parametrize("cut", [0, 4, -1, True, 2.0])
def test_no_such_cut(cut: object):
    with pytest.raises(LayerSelectError, match="is not between 1 and 3: the model has 4 layers"):
        StateCache(adapted("llama", CUT), cut)


def test_a_model_that_uses_lower_layers_elsewhere_is_refused():
    """Its head reads the first layer's output, too."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(VOCABULARY, 8)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4))

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            hidden = first = self.blocks[0](self.embed(tokens))
            for block in self.blocks[1:]:
                hidden = block(hidden)
            return hidden + first

    model = Wide().requires_grad_(False)
    with StateCache(model, 2), pytest.raises(LayerSelectError, match="uses what they compute elsewhere"):
        model(torch.randint(0, VOCABULARY, (2, 5)))


def test_a_mixture_that_balances_all_its_layers_is_refused():
    """The loss of a mixture of experts looks at the routers of every layer."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=VOCABULARY,
        num_local_experts=4,
        output_router_logits=True,
    )
    model = MixtralForCausalLM(config).eval().requires_grad_(False)
    tokens = torch.randint(0, VOCABULARY, (2, 5))
    with StateCache(model, 2), pytest.raises(LayerSelectError, match="uses what they compute elsewhere"):
        model(input_ids=tokens, labels=tokens)
    config.output_router_logits = False
    expected = model(input_ids=tokens, labels=tokens).loss
    with StateCache(model, 2) as state_cache:
        assert model(input_ids=tokens, labels=tokens).loss == expected and state_cache.filled == 2


def test_a_model_of_ones_own():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(VOCABULARY, 8)
            self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(4))

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            hidden = self.embed(tokens)
            for block in self.blocks:
                hidden = block(hidden)
            return hidden

    torch.manual_seed(0)
    model = Own().eval().requires_grad_(False)
    tokens = torch.randint(0, VOCABULARY, (3, 5))
    expected = model(tokens)
    with StateCache(model, 3) as state_cache:
        assert torch.equal(model(tokens), expected)
        assert torch.equal(model(tokens=tokens.flip(0)), expected.flip(0))
        assert (state_cache.filled, state_cache.read) == (3, 3)
        with torch.no_grad():
            model.blocks[0].self_attn.out_proj.weight.mul_(2.0)  # which its module never calls
        model(tokens)
        assert state_cache.filled == 6


# ---------------------------------------------------------------------- a store that decays under a training


def test_a_training_over_a_store_that_is_damaged_all_the_time(tmp_path: Path, caplog):
    """Files vanish and bits flip between the steps: what comes out is what it would have been."""
    steps = batches("qwen3", "right") * 8
    expected = train(adapted("qwen3", CUT), steps, torch.optim.SGD)
    model = adapted("qwen3", CUT)
    dice = random.Random(0)

    def decay() -> None:
        for path in tmp_path.rglob("*.entry"):
            if dice.random() < 0.05:
                path.unlink()
            elif dice.random() < 0.1:
                content = bytearray(path.read_bytes())
                content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
                path.write_bytes(content)

    with StateStore(tmp_path, memory=0) as store, StateCache(model, CUT, store) as state_cache:
        found = train(model, steps, torch.optim.SGD, decay)
    assert 12 < state_cache.filled < 60 and state_cache.read > 12
    assert found.losses == pytest.approx(expected.losses, rel=1e-6)
    assert error(found.weights, expected.weights) < 1e-6
    assert caplog.text.count("is damaged") == 1
