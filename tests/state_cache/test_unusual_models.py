"""Settings of models that are built in other ways: other kinds of adapters, experts, modules of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from layerselect.state_cache import StateCache, StateStore
from peft import LoraConfig, get_peft_model
from torch import nn

from tests.helpers.models import hugging_face
from tests.state_cache.changes import CUT, disable, freeze_below, logits


@pytest.mark.parametrize("kind", ["dora", "ia3", "loha", "vera", "tokens", "modules_to_save", "oft"])
def test_other_kinds_of_adapters(kind: str, tmp_path: Path):
    import peft

    def build(switched: bool) -> nn.Module:
        base = hugging_face("llama")
        targets = {"target_modules": ["q_proj", "down_proj"]}
        config = {
            "dora": lambda: LoraConfig(r=2, use_dora=True, **targets),
            "ia3": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
            "loha": lambda: peft.LoHaConfig(r=2, **targets),
            "vera": lambda: peft.VeraConfig(r=2, target_modules=["q_proj"]),
            "tokens": lambda: LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[4, 5, 6]),
            "modules_to_save": lambda: LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["input_layernorm"]),
            "oft": lambda: peft.OFTConfig(r=2, oft_block_size=0, **targets),
        }[kind]()
        torch.manual_seed(0)
        model = get_peft_model(base, config).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
        model.requires_grad_(False)
        if switched:
            disable(model)
        return model

    expected = [logits(build(switched)) for switched in (False, True)]
    assert not torch.equal(*expected)
    for first in (False, True):
        for switched in (first, not first):
            model = build(switched)
            with StateStore(tmp_path / str(first)) as store, StateCache(model, CUT, store, held=()):
                for _ in range(2):
                    assert torch.equal(logits(model), expected[switched])
                    with model.disable_adapter():
                        assert torch.equal(logits(model), expected[True])
                    if switched:
                        disable(model)
                    freeze_below(model, 4)
                    model.requires_grad_(False)


class OwnBlock(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.linear, self._factor = nn.Linear(8, 8), factor

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self._factor * self.linear(hidden).tanh()


def own(kind: str) -> nn.Module:
    """Models of one's own with the same tensors, which compute differently."""

    def block() -> nn.Module:
        if kind in ("first", "last"):
            return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=kind == "first")
        if kind in ("relu", "gelu"):
            return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation=kind)
        return OwnBlock(float(kind))

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.blocks = nn.Embedding(64, 8), nn.ModuleList(block() for _ in range(4))

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            hidden = self.embed(tokens)
            for layer in self.blocks:
                hidden = layer(hidden)
            return hidden

    torch.manual_seed(0)
    return Own().eval().requires_grad_(False)


@pytest.mark.parametrize("pair", [("first", "last"), ("relu", "gelu"), ("0.5", "1.5")])
def test_models_of_ones_own_that_differ_in_a_number_alone(pair: tuple[str, str], tmp_path: Path):
    tokens = torch.randint(0, 64, (2, 5))
    for kind in pair:
        model = own(kind)
        expected = model(tokens)
        with StateStore(tmp_path) as store, StateCache(model, 3, store) as state_cache:
            assert torch.equal(model(tokens), expected)
            assert state_cache.filled == 2


@pytest.mark.parametrize("name", ["mixtral"])
def test_experts_that_peft_parametrises_in_each_pass_are_read(name, caplog):
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    base = MixtralForCausalLM(
        MixtralConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            vocab_size=64,
            num_local_experts=2,
            pad_token_id=0,
        )
    )
    options = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], "target_modules": ["q_proj"]}
    model = get_peft_model(base, LoraConfig(r=2, **options)).eval()
    freeze_below(model)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(0, 0.3)
    expected = logits(model)
    with StateCache(model, CUT) as state_cache:
        for _ in range(7):
            assert torch.allclose(logits(model), expected, atol=1e-5)
        assert state_cache.read == 6 * state_cache.filled and state_cache.settled
        with torch.no_grad():  # a change is still seen
            next(p for n, p in model.named_parameters() if "layers.0" in n and "gate_up_proj" in n).mul_(3)
        assert not torch.allclose(logits(model), expected, atol=1e-5)
    assert "without a store" not in caplog.text


class _Writing(nn.Module):
    """A block that keeps what it has read, as recurrent ones do."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.state = nn.Linear(8, 8), torch.zeros(1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.state = hidden.detach().clone()
        return hidden + self.map(hidden)


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers = nn.Embedding(64, 8), nn.ModuleList(_Writing() for _ in range(3))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def test_a_model_that_writes_into_its_own_tensors_is_never_settled():
    model = _Recurrent().requires_grad_(False)
    with StateCache(model, 1) as state_cache, torch.no_grad():
        for number in range(7):
            model(torch.full((1, 3), number))
            assert not state_cache.settled
        assert state_cache.reasons == ["what weights below the cut hold changes in every pass"]
