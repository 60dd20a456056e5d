"""What a model is set to besides its weights: each setting has states of its own, or the pass computes. Never another's
states.

The oracle is the same model without a state cache, to which the same is done.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from layerselect import FastSelector
from layerselect.state_cache import StateCache, StateStore
from peft import LoraConfig, get_peft_model
from torch import nn

from tests.helpers.models import hugging_face
from tests.state_cache.test_same_numbers import Batch, batches

CUT = 2
Change = Callable[[nn.Module], object]


def adapted(name: str = "llama", *, cut: int = CUT, **options) -> nn.Module:
    """With two adapters that say something everywhere, of which the first is active; nothing below the cut trains."""
    return copy.deepcopy(_adapted(name, cut, tuple(options.items())))


@functools.cache
def _adapted(name: str, cut: int, further: tuple, seed: int = 0) -> nn.Module:
    options = {"r": 2, "target_modules": "all-linear", **dict(further)}
    model = get_peft_model(hugging_face(name, seed), LoraConfig(**options))
    model.add_adapter("reference", LoraConfig(**options))
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(0, 0.3)
    model.eval()
    freeze_below(model, cut)
    return model


def freeze_below(model: nn.Module, cut: int = CUT) -> None:
    for name, parameter in model.named_parameters():
        if any(f".{stack}.{number}." in name for stack in ("layers", "h", "layer", "block") for number in range(cut)):
            parameter.requires_grad_(False)


def given(name: str = "llama", padding: str = "right") -> Batch:
    return batches(name, padding)[0]


def logits(model: nn.Module, batch: Batch | None = None, **more) -> torch.Tensor:
    """Of what is no padding."""
    batch = given() if batch is None else batch
    with torch.no_grad():
        return model(**batch, **more).logits[batch["attention_mask"] != 0]


def disable(model: nn.Module) -> None:
    model.base_model.disable_adapter_layers()


def lora_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if hasattr(module, "scaling") and hasattr(module, "base_layer")]


def scale_in_place(model: nn.Module) -> None:
    for layer in lora_layers(model):
        layer.scaling["default"] *= 2.0


def scale_one(model: nn.Module) -> None:
    lora_layers(model)[0].set_scale("default", 3.0)


def scale_all(model: nn.Module) -> None:
    for layer in lora_layers(model):
        layer.scale_layer(0.5)


def activate_both(model: nn.Module) -> None:
    model.base_model.set_adapter(["default", "reference"])


def merge_and_unmerge(model: nn.Module) -> None:
    model.merge_adapter()
    model.unmerge_adapter()


def merge_safely(model: nn.Module) -> None:
    model.merge_adapter(safe_merge=True)


def merge_then_disable(model: nn.Module) -> None:
    model.merge_adapter()
    disable(model)


def add_a_third(model: nn.Module) -> None:
    torch.manual_seed(7)
    model.add_adapter("third", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    model.set_adapter("third")


def delete_the_active(model: nn.Module) -> None:
    model.delete_adapter("default")
    model.set_adapter("reference")


def disable_one_layer(model: nn.Module) -> None:
    lora_layers(model)[0].enable_adapters(False)


def exchange_a_module(model: nn.Module) -> None:
    block = model.get_base_model().model.layers[0]
    torch.manual_seed(5)
    block.mlp = type(block.mlp)(model.config).eval().requires_grad_(False)


def weights_behind_torchs_back(model: nn.Module) -> None:
    model.get_base_model().model.layers[1].mlp.down_proj.base_layer.weight.data *= 1.01


def exchange_the_embedding(model: nn.Module) -> None:
    torch.manual_seed(6)
    model.get_base_model().set_input_embeddings(nn.Embedding(64, 16).requires_grad_(False))


def change_a_number(model: nn.Module) -> None:
    model.get_base_model().model.layers[0].self_attn.scaling *= 0.5


def change_an_epsilon(model: nn.Module) -> None:
    model.get_base_model().model.layers[0].input_layernorm.variance_epsilon = 0.5


def change_an_activation(model: nn.Module) -> None:
    model.get_base_model().model.layers[0].mlp.act_fn = nn.Tanh()


def change_attention(model: nn.Module) -> None:
    model.get_base_model().set_attn_implementation("eager")


def change_a_buffer(model: nn.Module) -> None:
    model.get_base_model().model.rotary_emb.inv_freq.mul_(0.5)


def change_rotary_scaling(model: nn.Module) -> None:
    model.get_base_model().model.rotary_emb.attention_scaling = 0.8


CHANGES = [
    disable,
    lambda m: m.set_adapter("reference"),
    activate_both,
    scale_in_place,
    scale_one,
    scale_all,
    merge_safely,
    lambda m: m.merge_adapter(),
    lambda m: m.merge_adapter(["reference"]),
    merge_and_unmerge,
    merge_then_disable,
    add_a_third,
    delete_the_active,
    disable_one_layer,
    exchange_a_module,
    weights_behind_torchs_back,
    exchange_the_embedding,
    change_a_number,
    change_an_epsilon,
    change_an_activation,
    change_attention,
    change_a_buffer,
    change_rotary_scaling,
]
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
