"""Which weights the entries of a cache belong to: changed ones are noticed, and the same ones are found again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.state_cache import StateCache, StateStore
from torch import nn

from tests.helpers.models import hugging_face
from tests.state_cache.changes import CUT, given, logits
from tests.state_cache.test_same_numbers import adapted


def add_in_place(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight.add_(1e-3)


def add_behind_torchs_back(model: nn.Module) -> None:
    for parameter in model.get_base_model().model.layers[0].parameters():
        parameter.data.add_(1e-3)


def load_another_base(model: nn.Module) -> None:
    other = adapted_with_seed(1)
    model.load_state_dict(other.state_dict())


def replace_a_parameter(model: nn.Module) -> None:
    layer = model.get_base_model().model.layers[1].self_attn.q_proj.base_layer
    layer.weight = nn.Parameter(layer.weight.detach() * 1.01, requires_grad=False)


def move_to_double_and_back(model: nn.Module) -> None:
    model.get_base_model().model.embed_tokens.weight.data.mul_(1.001)
    model.double().float()


def load_an_adapter(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_base_model().model.layers[0].self_attn.v_proj.lora_B["default"].weight.mul_(2.0)


def adapted_with_seed(seed: int) -> nn.Module:
    from tests.helpers.models import with_lora

    model = with_lora(hugging_face("llama", seed=seed)).eval()
    model.get_base_model().model.layers[:CUT].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "change",
    [
        add_in_place,
        add_behind_torchs_back,
        load_another_base,
        replace_a_parameter,
        move_to_double_and_back,
        load_an_adapter,
    ],
)
def test_changed_weights_below_the_cut_are_noticed(change: Callable[[nn.Module], None], caplog):
    model = adapted("llama", CUT)
    with StateCache(model, CUT) as state_cache:
        before = logits(model, given())
        assert state_cache.filled == 3
        change(model)
        found = [logits(model, given()) for _ in range(40)]  # one tensor is looked at in a pass
        assert state_cache.filled == 6
    expected = logits(model, given())
    assert not torch.equal(expected, before)
    assert torch.equal(found[-1], expected)
    assert "weights below the cut have changed" in caplog.text


def test_a_layer_above_the_cut_may_change():
    model = adapted("llama", CUT)
    with StateCache(model, CUT) as state_cache:
        logits(model, given())
        with torch.no_grad():
            model.get_base_model().model.layers[CUT].mlp.up_proj.base_layer.weight.mul_(1.5)
            model.get_base_model().lm_head.weight.mul_(1.5)
        found = logits(model, given())
        assert (state_cache.filled, state_cache.read) == (3, 3)
    assert torch.equal(found, logits(model, given()))


def test_what_trains_below_the_cut_is_refused():
    model = adapted("llama", CUT)
    with StateCache(model, CUT):
        logits(model, given())
        model.get_base_model().model.layers[0].mlp.up_proj.lora_A["default"].weight.requires_grad_(True)
        with pytest.raises(
            LayerSelectError, match=r"layers\.0\.mlp\.up_proj\.lora_A.* trains and stands below the cut"
        ):
            model(**given())


def test_trainable_embeddings_are_refused():
    model = adapted("llama", CUT)
    model.get_input_embeddings().weight.requires_grad_(True)
    with StateCache(model, CUT), pytest.raises(LayerSelectError, match="embed_tokens.weight trains and stands below"):
        model(**given())
    model(**given())  # and nothing of it is left


# ---------------------------------------------------------------------- who shares entries


def test_another_base_model_finds_nothing(tmp_path: Path):
    for seed in (0, 1):
        model = adapted_with_seed(seed)
        expected = logits(model, given())
        with StateStore(tmp_path) as store, StateCache(model, CUT, store) as state_cache:
            assert torch.equal(logits(model, given()), expected)
            assert (state_cache.filled, state_cache.read) == (3, 0)


def fresh(kind: str) -> nn.Module:
    """The same base model under fresh adapters of several kinds and seeds, and under another head."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForSequenceClassification

    base = hugging_face("llama")
    if kind == "head":
        other = LlamaForSequenceClassification(copy.deepcopy(base.config))
        other.model.load_state_dict(base.model.state_dict())
        base = other
    if kind != "plain":
        torch.manual_seed(hash(kind) % 1000)
        base = get_peft_model(base, LoraConfig(r=4 if kind == "rank" else 2, target_modules="all-linear"))
    return base.eval().requires_grad_(False)


def test_fresh_adapters_and_other_heads_share_entries(tmp_path: Path):
    """An adapter that adds nothing leaves the base model as it is."""
    filled = []
    for kind in ("plain", "one seed", "another seed", "rank", "head"):
        model = fresh(kind)
        inputs = {name: value for name, value in given().items() if name != "labels"}
        with StateStore(tmp_path) as store, StateCache(model, CUT, store) as state_cache:
            with torch.no_grad():
                model(**inputs)
            filled.append(state_cache.filled)
    assert filled == [3, 0, 0, 0, 0]


def test_another_cut_and_another_precision_are_apart(tmp_path: Path):
    filled = []
    for cut, precision, autocast in ((2, "exact", False), (1, "exact", False), (2, "half", False), (2, "exact", True)):
        model = adapted("llama", cut)
        with StateStore(tmp_path, precision=precision) as store, StateCache(model, cut, store) as state_cache:
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    logits(model, given())
            filled.append((state_cache.filled, state_cache.read))
    assert filled == [(3, 3)] * 4
